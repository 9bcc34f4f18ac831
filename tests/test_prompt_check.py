"""Prompts that a tokenizer cannot read are named before a run."""

import json
import logging
from pathlib import Path

import pytest

from models.grounding_dino.prompt_check import describe_unread_prompts
from models.ontology import Ontology
from models.zoo import BUNDLED
from pipeline.prompt_notes import note_unread_prompts

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "dog",
    "sled",
    "c",
    "a",
    "t",
    "car",
    *(f"##{c}" for c in "astr"),
    "##go",
]


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    """A folder with a vocabulary of word pieces."""
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return tmp_path


def test_known_prompts_need_no_word(pieces: Path) -> None:
    assert describe_unread_prompts(pieces, ["dog", "dog sled", "cargo", "cat"]) == []


def test_unknown_words_are_named(pieces: Path) -> None:
    none, some = describe_unread_prompts(pieces, ["собака", "dog", "dog собака"])
    assert none == "the detector's tokenizer knows no word of the prompt 'собака': it cannot look for it"
    assert some == "the detector's tokenizer does not know 'собака' in the prompt 'dog собака'"


def test_words_that_are_only_spelled_are_named(pieces: Path) -> None:
    assert describe_unread_prompts(pieces, ["dog cars", "cats tar"]) == [
        "the detector's tokenizer only spells 'cats' in the prompt 'cats tar'"
    ]


def test_the_bundled_vocabulary_has_whole_words() -> None:
    sentences = describe_unread_prompts(BUNDLED / "tiny", ["red circle", "red zebra", "zebra"])
    assert sentences == [
        "the detector's tokenizer does not know 'zebra' in the prompt 'red zebra'",
        "the detector's tokenizer knows no word of the prompt 'zebra': it cannot look for it",
    ]


def test_a_closed_set_and_a_folder_without_tokenizer_say_nothing(pieces: Path, tmp_path: Path) -> None:
    (pieces / "groundlabel.json").write_text(json.dumps({"classes": ["zebra"]}), encoding="utf-8")
    assert describe_unread_prompts(pieces, ["zebra"]) == []
    (pieces / "vocab.txt").unlink()
    assert describe_unread_prompts(pieces, ["zebra"]) == []


def test_the_pipeline_logs_each_once(caplog: pytest.LogCaptureFixture) -> None:
    ontology = Ontology(Ontology.from_names("red circle, zebra").classes, negatives=("quagga",))
    with caplog.at_level(logging.WARNING):
        note_unread_prompts("tiny", ontology)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the detector's tokenizer knows no word of the prompt 'zebra'",
        "the detector's tokenizer knows no word of the prompt 'quagga'",
    ]
