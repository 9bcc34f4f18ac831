"""Thresholds go into ontology files of every form, and nothing else in them changes."""

from pathlib import Path

import pytest

from models.ontology import Ontology
from models.ontology_edit import with_thresholds

YAML = """\
# of the whole file
car: [car, taxi]            # several
person: person
"bus": 'big bus'   # quoted
traffic light:              # no prompt
dog:
  prompts: [dog, puppy]
  box_threshold: 0.3        # by hand
  color: "#ff8800"
cat:
  # in front
  - cat
  - kitty  # behind
fish:
- fish
- goldfish

hen: {color: "#ffffff"}
negatives: [reflection]
"""
CHANGED = """\
# of the whole file
car: {prompts: [car, taxi], box_threshold: 0.4126}            # several
person: {prompts: person, box_threshold: 0.4126}
"bus": {prompts: 'big bus', box_threshold: 0.4126}   # quoted
traffic light: {box_threshold: 0.4126}              # no prompt
dog:
  prompts: [dog, puppy]
  box_threshold: 0.4126        # by hand
  color: "#ff8800"
cat:
  # in front
  box_threshold: 0.4126
  prompts:
    - cat
    - kitty  # behind
fish:
  box_threshold: 0.4126
  prompts:
  - fish
  - goldfish

hen: {box_threshold: 0.4126, color: "#ffffff"}
negatives: [reflection]
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.write_bytes(text.encode())
        return file

    return write


def test_every_form_of_a_class_and_every_comment(write) -> None:
    names = ("Car", "person", "bus", "traffic  light", "dog", "cat", "fish", "hen")
    changed = with_thresholds(write("a.yaml", YAML), dict.fromkeys(names, 0.4126))
    assert changed == CHANGED
    assert {spec.box_threshold for spec in Ontology.from_file(write("b.yaml", changed)).classes} == {0.4126}
    # Once more: only numbers change.
    assert with_thresholds(write("b.yaml", changed), {"cat": 0.5}) == changed.replace(
        "# in front\n  box_threshold: 0.4126", "# in front\n  box_threshold: 0.5"
    )


def test_classes_that_are_not_named_stay(write) -> None:
    assert with_thresholds(write("a.yaml", YAML), {}) == YAML
    assert with_thresholds(write("a.yaml", YAML), {"dog": 1 / 3}) == YAML.replace("0.3 ", f"{1 / 3!r} ")


def test_lists_of_classes(write) -> None:
    text = "classes:\n  - car\n  - name: dog\n    prompts: [dog]\n  - {name: cat, color: '#112233'}\n"
    assert with_thresholds(write("a.yaml", text), {"car": 0.5, "dog": 0.4, "cat": 0.3}) == (
        "classes:\n  - {name: car, box_threshold: 0.5}\n  - name: dog\n    box_threshold: 0.4\n    prompts: [dog]\n"
        "  - {name: cat, box_threshold: 0.3, color: '#112233'}\n"
    )


def test_json_stays_json(write) -> None:
    text = '{\n\t"car": ["car", "taxi"],\n\t"light": null, "dog": "dog",\n\t"hen": {"prompts": ["hen"]}\n}\n'
    changed = with_thresholds(write("a.json", text), {"car": 0.5, "light": 0.4, "dog": 0.3, "hen": 0.25})
    assert changed == (
        '{\n\t"car": {"prompts": ["car", "taxi"], "box_threshold": 0.5},\n\t"light": {"box_threshold": 0.4}, '
        '"dog": {"prompts": "dog", "box_threshold": 0.3},\n\t"hen": {"box_threshold": 0.25, "prompts": ["hen"]}\n}\n'
    )
    assert len(Ontology.from_file(write("b.json", changed)).classes) == 4


def test_windows_line_ends_stay(write) -> None:
    assert with_thresholds(write("a.yaml", "a: x\r\nb: y\r\n"), {"b": 0.2}) == (
        "a: x\r\nb: {prompts: y, box_threshold: 0.2}\r\n"
    )


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("prompts: {kitty: cat}\n", "cat", "no place for thresholds"),
        ("car: car\n", "bus", "has no class 'bus'"),
        ("car: red, old car\n", "car", "without being rewritten"),
    ],
)
def test_what_has_no_place_for_it_is_refused(write, text: str, name: str, message: str) -> None:
    file = write("a.yaml", text)
    with pytest.raises(ValueError, match=message):
        with_thresholds(file, {name: 0.3})
    assert file.read_text() == text
