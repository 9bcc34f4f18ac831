"""What filters took away, counted by reason and class, in the flat form in which shards and the manifest keep it."""

from collections import Counter
from collections.abc import Iterable, Mapping

from models.ontology import Ontology
from pipeline.filters import DropCounts
from pipeline.store.manifest import ShardEntry

SHORT = {
    "overlap": "NMS",
    "overlap of classes": "NMS across classes",
    "large": "whole-image or too large",
    "small": "too small",
    "aspect": "too stretched",
    "border": "at the border",
    "merged": "seen in several tiles",
    "negative": "of negative prompts",
    "outside": "outside of the image",
}
"""Reason -> its name in a sentence; the others are their own."""

NEGATIVE = "(negative prompts)"
"""What boxes of negative prompts count as, which have no class."""
_BETWEEN = ": "


def name_drops(counts: DropCounts, ontology: Ontology) -> Counter[str]:
    """Return counts under "reason: class name"."""
    named: Counter[str] = Counter()
    for (reason, class_id), count in counts.items():
        named[f"{reason}{_BETWEEN}{ontology.name_of(class_id) if class_id else NEGATIVE}"] += count
    return named


def sum_drops(entries: Iterable[ShardEntry]) -> Counter[str]:
    """Return the counts of all shards of a run."""
    total: Counter[str] = Counter()
    for entry in entries:
        total.update(entry.drops)
    return total


def drops_by_reason(drops: Mapping[str, int]) -> dict[str, int]:
    """Return counts by reason alone, most first."""
    totals: Counter[str] = Counter()
    for key, count in drops.items():
        totals[key.split(_BETWEEN, 1)[0]] += count
    return dict(totals.most_common())


def describe_drops(drops: Mapping[str, int]) -> str:
    """Return "dropped: 312 NMS, 18 whole-image or too large", most first; empty where nothing was dropped."""
    parts = [f"{count} {SHORT.get(reason, reason)}" for reason, count in drops_by_reason(drops).items()]
    return f"dropped: {', '.join(parts)}" if parts else ""
