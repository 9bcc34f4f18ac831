"""People's corrections of several runs, put together for the run that their images are merged into."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.reviewed.changes import Change, ReviewedImage, replay
from pipeline.reviewed.layer import ReviewedLayer, has_layer, read_changes

_MOST_NAMED = 5


def corrections_to_carry(folders: Sequence[Path], output: Path) -> list[Change]:
    """Return the changes that the output's reviewed layer lacks, in an order in which they can be played.

    A layer that goes on where another ends takes its place, so that a merge may be repeated: after more reviews of the
    parts, and after reviews of the output.

    Args:
        folders: Runs; one without corrections has nothing to say.
        output: The run to make, or to go on with; it need not exist.

    Raises:
        UserError: Two of them leave an image in different states, or a layer cannot be read.
    """
    before = _by_image(output)
    known = {image_id: (changes, output) for image_id, changes in before.items()}
    contradictions: list[str] = []
    for folder in folders:
        for image_id, changes in _by_image(folder).items():
            present, owner = known.get(image_id, ((), folder))
            if _goes_on(changes, present):
                known[image_id] = changes, folder
            elif not _goes_on(present, changes) and not _same_end(present, changes):
                contradictions.append(f"{changes[0].image.path}: {owner} and {folder}")
    if contradictions:
        listed = "\n  ".join(contradictions[:_MOST_NAMED])
        rest = len(contradictions) - _MOST_NAMED
        more = f"\n  and {rest} more" if rest > 0 else ""
        raise UserError(
            f"images that people corrected in different ways cannot be merged:\n  {listed}{more}\n"
            "Nothing was written. Review each of them in one run only, or leave out a run (its corrections are in "
            "reviewed/)"
        )
    return [change for image_id, (changes, _) in known.items() for change in changes[len(before.get(image_id, ())) :]]


def carry_corrections(changes: Sequence[Change], output: Path) -> int:
    """Write changes into a run's reviewed layer; returns how many images they are about.

    Raises:
        UserError: The layer cannot be read or written.
    """
    if changes:
        ReviewedLayer(output).add(changes)
    return len({change.image.image_id for change in changes})


def _by_image(folder: Path) -> dict[str, tuple[Change, ...]]:
    found: dict[str, list[Change]] = {}
    for change in read_changes(folder) if has_layer(folder) else ():
        found.setdefault(change.image.image_id, []).append(change)
    return {image_id: tuple(changes) for image_id, changes in found.items()}


def _goes_on(changes: Sequence[Change], earlier: Sequence[Change]) -> bool:
    """Say whether changes begin with others, and hold perhaps more."""
    return tuple(changes[: len(earlier)]) == tuple(earlier)


def _same_end(left: Sequence[Change], right: Sequence[Change]) -> bool:
    return _end(left) == _end(right)


def _end(changes: Sequence[Change]) -> ReviewedImage:
    (state,) = replay(changes).values()
    return state
