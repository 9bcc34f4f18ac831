"""Which class was taken for which, and for nothing."""

import numpy as np
from numpy.typing import NDArray

from pipeline.proof.pairing import Pair
from pipeline.proof.pairs_of_objects import PairedObjects

BACKGROUND = "background"


def confusion_matrix(pair: Pair, partners: PairedObjects) -> NDArray[np.int64]:
    """Count objects by their class and by the class that they were labelled with.

    Returns:
        (C + 1, C + 1) int64, C classes: a row for each class of the truth, a column for each class of the labels. The
        last row holds labels on no object, the last column objects without a label; their corner is 0.
    """
    count = len(pair.names) + 1
    matrix = np.zeros((count, count), np.int64)
    truth, found = pair.truth.class_rows, pair.found.class_rows
    np.add.at(matrix, (truth[partners.truth_rows], found[partners.label_rows]), 1)
    np.add.at(matrix[:, -1], truth[partners.spare_truth], 1)
    np.add.at(matrix[-1], found[partners.spare_labels], 1)
    return matrix
