"""Which prompts a training image is asked for: its own names and negatives from the whole vocabulary.

With few prompts an image, colour alone decides and the model never learns shapes; sets of up to half the vocabulary,
sets of which nothing is there, and negatives that share a word with an object cut false boxes several-fold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.training.augment import Labelled
from models.training.referring import Referring


@dataclass(frozen=True, eq=False)
class Sample:
    """A training image with what it is asked for.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes_xyxy: (N, 4) float32 pixels; N may be 0.
        prompts: P texts, at least one.
        positive: (N, P) bool, which prompts name which box; each row has a True.
    """

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    prompts: tuple[str, ...]
    positive: NDArray[np.bool_]


@dataclass(frozen=True)
class PromptSampling:
    """How prompt sets are drawn.

    Attributes:
        sizes: Possible numbers of prompts; the vocabulary's size caps them.
        weights: Their probabilities.
        nothing_present: Share of sets that ask only for what is absent.
        keep_present: Chance of each present class to be asked for; a class not asked for is background.
        hard_share: Share of the negatives that share a word with a present class, as far as there are such.
        most: Most present classes asked for at once, for a model's token limit; None for all.
    """

    sizes: tuple[int, ...] = (8, 16, 24, 40)
    weights: tuple[float, ...] = (0.35, 0.25, 0.25, 0.15)
    nothing_present: float = 0.3
    keep_present: float = 0.85
    hard_share: float = 0.5
    most: int | None = None


def draw_prompts(
    rng: np.random.Generator, present: Sequence[str], vocabulary: Sequence[str], sampling: PromptSampling
) -> list[str]:
    """Draw a prompt set in random order.

    Args:
        rng: Source of chance.
        present: Names of the image's objects, with repeats; may be empty.
        vocabulary: All names there are.
        sampling: The distribution.

    Returns:
        Between one name and the vocabulary's size, each once.
    """
    names = sorted(set(present))
    size = min(int(rng.choice(sampling.sizes, p=sampling.weights)), len(vocabulary))
    absent = [name for name in vocabulary if name not in set(names)]
    nothing = bool(absent) and rng.random() < sampling.nothing_present
    asked = [] if nothing else [name for name in names if rng.random() < sampling.keep_present]
    if sampling.most is not None and len(asked) > sampling.most:
        asked = [str(name) for name in rng.permutation(asked)[: sampling.most]]
    wanted = max(size - len(asked), 0 if asked else 1)
    words = {word for name in names for word in name.split()}
    similar = [name for name in absent if words & set(name.split())]
    others = [name for name in absent if not words & set(name.split())]
    hard = min(round(wanted * sampling.hard_share), len(similar))
    easy = min(wanted - hard, len(others))
    hard = min(wanted - easy, len(similar))
    chosen = [*rng.permutation(similar)[:hard], *rng.permutation(others)[:easy]]
    prompts = [str(name) for name in [*asked, *chosen]] or names[:1]
    return [prompts[index] for index in rng.permutation(len(prompts))]


def ask_for_names(
    rng: np.random.Generator, labelled: Labelled, vocabulary: Sequence[str], sampling: PromptSampling
) -> Sample:
    """Ask an image for class names; boxes of classes not asked for are left out."""
    prompts = draw_prompts(rng, labelled.names, vocabulary, sampling)
    place = {name: index for index, name in enumerate(prompts)}
    kept = [row for row, name in enumerate(labelled.names) if name in place]
    positive = np.zeros((len(kept), len(prompts)), bool)
    for row, source in enumerate(kept):
        positive[row, place[labelled.names[source]]] = True
    return Sample(labelled.image, labelled.boxes_xyxy[kept], tuple(prompts), positive)


def ask_for_expressions(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    boxes_xyxy: NDArray[np.float32],
    expressions: Sequence[Referring],
    untrue: Sequence[str],
) -> Sample:
    """Ask an image for referring expressions, each true of one object, among ones that are true of none.

    Args:
        rng: Source of chance.
        image: (H, W, 3) uint8.
        boxes_xyxy: (N, 4) pixels.
        expressions: At least one; objects without an expression are background.
        untrue: Expressions that name nothing in this image.
    """
    prompts = list(dict.fromkeys([*(item.text for item in expressions), *untrue]))
    prompts = [prompts[index] for index in rng.permutation(len(prompts))]
    rows = sorted({item.object_index for item in expressions})
    positive = np.zeros((len(rows), len(prompts)), bool)
    for item in expressions:
        positive[rows.index(item.object_index), prompts.index(item.text)] = True
    return Sample(image, boxes_xyxy[rows], tuple(prompts), positive)
