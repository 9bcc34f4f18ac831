"""Counts of what filters took away: named, summed and said."""

from collections import Counter

from models.ontology import Ontology
from pipeline.drops import describe_drops, drops_by_reason, name_drops
from pipeline.filters import REASONS

ONTOLOGY = Ontology.from_dict({"classes": [{"name": "car: red", "prompts": ["car"]}], "negatives": ["shadow"]})


def test_counts_name_their_class() -> None:
    named = name_drops(Counter({("overlap", 1): 3, ("negative", 0): 2}), ONTOLOGY)
    assert named == {"overlap: car: red": 3, "negative: (negative prompts)": 2}
    assert drops_by_reason(named) == {"overlap": 3, "negative": 2}


def test_they_are_said_most_first() -> None:
    drops = {"large: car": 18, "overlap: car": 300, "overlap: dog": 12, "empty mask: dog": 1}
    assert describe_drops(drops) == "dropped: 312 NMS, 18 whole-image or too large, 1 empty mask"
    assert describe_drops({}) == ""


def test_no_reason_has_the_mark_that_ends_it() -> None:
    assert not any(": " in reason for reason in REASONS)
