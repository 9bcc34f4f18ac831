"""What was found for each class, as cells of a table for people."""

from pipeline.calibration.calibrate import ClassCalibration
from pipeline.calibration.thresholds import Finding

HEAD = ("class", "judged", "right", "missed", "now", "threshold", "(interval)", "precision", "recall", "")
UNKNOWN = "–"


def class_cells(one: ClassCalibration) -> tuple[str, ...]:
    """Return a class as cells under `HEAD`; what is not known is a dash."""
    found = one.threshold
    words = {
        Finding.SHOWN: "lowest of the run" if found.is_lowest else "",
        Finding.LIKELY: "likely, not sure yet",
        Finding.OUT_OF_REACH: "no threshold reaches it",
        Finding.TOO_FEW: "too few reviews; left as it is",
    }
    counts = (one.name, str(len(one.boxes)), str(int(one.boxes.right.sum())), str(one.boxes.missed), f"{one.now:.3f}")
    share, interval = found.precision, UNKNOWN
    if found.low is not None and found.high is not None:
        interval = f"{found.low:.3f} to {found.high:.3f}"
    precision = UNKNOWN if share.value != share.value else f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})"
    recall = UNKNOWN if found.recall != found.recall else f"{found.recall:.3f}"
    threshold = UNKNOWN if one.proposed is None else f"{one.proposed:.3f}"
    return (*counts, threshold, interval, precision, recall, words[found.finding])


def advice(one: ClassCalibration, width: float) -> str:
    """Say how many more reviews of a class would narrow its precision; empty where none are needed."""
    more = one.threshold
    if not more.more_boxes:
        return ""
    images = f", some {more.more_images} images" if more.more_images is not None else ""
    if more.finding == Finding.TOO_FEW:
        return f"{one.name}: {more.more_boxes} more reviewed labels are needed{images}"
    return f"{one.name}: {more.more_boxes} more reviewed labels would narrow its precision to {width:g}{images}"
