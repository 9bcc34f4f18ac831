"""The ontology: forms of its file, ids, round trip, and errors that name file, line and class."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.class_spec import ClassSpec
from models.ontology import Ontology


def from_text(folder: Path, text: str, name: str = "classes.yaml") -> Ontology:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return Ontology.from_file(path)


def prompts_of(ontology: Ontology) -> dict[str, list[str]]:
    return {spec.name: list(spec.prompts) for spec in ontology.classes}


@pytest.mark.parametrize(
    "text",
    [
        "cat: kitty\ndog: [dog, puppy]\n",
        "# a comment\ncat: {prompts: kitty}   # another\ndog:\n  prompts: [ Dog , PUPPY ]\n",
        "classes: {cat: kitty, dog: [dog, puppy]}\n",
        "classes: [{name: cat, prompts: [kitty]}, {prompts: [dog, puppy], name: dog}]\n",
        "prompts: {kitty: cat, dog: dog, puppy: Dog}\n",
        "[{name: cat, prompts: kitty}, {name: dog, prompts: [dog, puppy]}]\n",
        "\ufeffcat: kitty\ndog: [dog, puppy]\n",
    ],
)
def test_forms_say_the_same(tmp_path: Path, text: str) -> None:
    ontology = from_text(tmp_path, text)
    assert prompts_of(ontology) == {"cat": ["kitty"], "dog": ["dog", "puppy"]}
    assert [spec.id for spec in ontology.classes] == [1, 2]
    assert [(p.index, p.text, p.class_id) for p in ontology.prompts] == [
        (0, "kitty", 1),
        (1, "dog", 2),
        (2, "puppy", 2),
    ]


def test_json_has_comments_tabs_and_emoji(tmp_path: Path) -> None:
    text = '{\n\t"//": "made by hand",\n\t"//": "twice",\n\t"cat": ["kitty", "\\ud83d\\ude3a"]\n}\n'
    assert prompts_of(from_text(tmp_path, text, "classes.json")) == {"cat": ["kitty", "😺"]}


def test_yaml_words_are_names_not_booleans_or_numbers(tmp_path: Path) -> None:
    ontology = from_text(tmp_path, "no:\nyes: [on, 7]\n2024-01-01: off\n")
    assert prompts_of(ontology) == {"no": ["no"], "yes": ["on", "7"], "2024-01-01": ["off"]}


def test_case_and_spaces_do_not_matter() -> None:
    ontology = Ontology.from_names("  Person,TRAFFIC   Light ")
    assert prompts_of(ontology) == {"Person": ["person"], "TRAFFIC Light": ["traffic light"]}


def test_thresholds_and_colours(tmp_path: Path) -> None:
    ontology = from_text(tmp_path, 'cat: {box_threshold: .3, text_threshold: 0, color: "#FF8000"}\ndog:\n')
    assert ontology.classes[0] == ClassSpec(1, "cat", ("cat",), 0.3, 0.0, "#ff8000")
    assert ontology.colors[0] == (255, 128, 0)
    assert ontology.classes[1].box_threshold is None


def test_negatives_come_last_with_class_0(tmp_path: Path) -> None:
    ontology = from_text(tmp_path, "cat: kitty\nnegatives: [Shadow]\n")
    assert [(p.text, p.class_id) for p in ontology.prompts] == [("kitty", 1), ("shadow", 0)]


def test_colours_are_distinct() -> None:
    assert len(set(Ontology.from_names([f"class {index}" for index in range(200)]).colors)) == 200


def test_lookups() -> None:
    ontology = Ontology.from_names("cat, dog")
    assert ontology.name_of(2) == "dog"
    for wrong in (0, 3, -1):
        with pytest.raises(ValueError, match="class ids run from 1 to 2"):
            ontology.class_by_id(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat: kitty\n\nCat: tom\n", ":3: class 'Cat': the class is given twice (first as 'cat'"),
        ("cat: kitty\ncat: tom\n", ":2: class 'cat': the class is given twice"),
        ("cat: kitty\ndog:\n  - puppy\n  - KITTY\n", ":4: class 'dog': the prompt 'kitty' is given twice"),
        ("cat: [kitty, ' ']\n", ":1: class 'cat': a prompt is empty"),
        ("cat: []\n", ":1: class 'cat': no prompt"),
        ("'': kitty\n", ":1: class '': the class name is empty"),
        ("cat:\n  - tom. jerry\n", ":2: class 'cat': the prompt 'tom. jerry' has a \".\""),
        ("cat: what?\n", ":1: class 'cat': the prompt 'what?' has a \"?\""),
        ("cat:\n  promts: [kitty]\n", ":2: class 'cat': unknown key 'promts'; did you mean 'prompts'?"),
        ("cat: {colour: red}\n", ":1: class 'cat': unknown key 'colour'; did you mean 'color'?"),
        ("cat:\n  color: #ff0000\n", ":2: class 'cat': color is empty; quote it"),
        ("cat: {color: red}\n", ":1: class 'cat': color must be six hexadecimal digits"),
        ("cat: {box_threshold: high}\n", ":1: class 'cat': box_threshold must be a number from 0 to 1, not 'high'"),
        ("cat: {box_threshold: 35}\n", ":1: class 'cat': box_threshold must be a number from 0 to 1, not 35.0"),
        ("cat: {text_threshold: .nan}\n", ":1: class 'cat': text_threshold must be a number from 0 to 1"),
        ("cat: {prompts: {a: b}}\n", ":1: class 'cat': a prompt must be a text"),
        ("cat: kitty\nnegatives: [dog, kitty]\n", ":2: negatives: the prompt 'kitty' is given twice"),
        ("classes: [cat]\ndog: puppy\n", ":2: classes stand in one place only"),
        ("classes: [{prompts: kitty}]\n", ":1: a class in a list needs a `name`"),
        ("cat: [kitty\n", "not valid YAML"),
        ("cat: kitty\n\tdog: x\n", ":2: not valid YAML"),
        ("", ": no class in it"),
        ("negatives: [dog]\n", ": no class in it"),
        ("just a sentence\n", ":1: the ontology: expected a mapping"),
    ],
)
def test_errors_name_file_line_and_class(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match="classes") as caught:
        from_text(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "classes.yaml"))
    assert message in str(caught.value)


def test_json_syntax_error_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classes\.json:3: not valid JSON"):
        from_text(tmp_path, '{\n "cat": "kitty",\n}\n', "classes.json")


def test_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_bytes(b"caf\xe9: coffee\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        Ontology.from_file(path)


@pytest.mark.parametrize("names", ["", "cat,,dog", "cat, ", ["cat", " "], []])
def test_names_must_not_be_empty(names: Any) -> None:
    with pytest.raises(ValueError, match=r"empty|at least one class"):
        Ontology.from_names(names)


def test_parse_tells_files_from_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("cat: kitty\n", encoding="utf-8")
    assert prompts_of(Ontology.parse("list")) == {"cat": ["kitty"]}
    assert prompts_of(Ontology.parse("cat, dog")) == {"cat": ["cat"], "dog": ["dog"]}
    assert len(Ontology.parse(", ".join(f"class number {index}" for index in range(600))).classes) == 600
    for missing in ("classes.yaml", "other.JSON"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            Ontology.parse(missing)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(FileNotFoundError, match="is a folder"):
        Ontology.parse("folder.yaml")


def test_direct_construction_is_checked_too() -> None:
    with pytest.raises(ValueError, match="class 'Cat': the class is given twice"):
        Ontology((ClassSpec(1, "cat", ("cat",)), ClassSpec(2, "Cat", ("kitty",))))
    with pytest.raises(ValueError, match="class ids must be 1, 2, 3"):
        Ontology((ClassSpec(2, "cat", ("cat",)),))


def test_a_foreign_value_is_refused() -> None:
    with pytest.raises(ValueError, match="texts, numbers, lists and mappings"):
        Ontology.from_dict({"cat": object()})


names = st.text("abc dÄ😺-'", min_size=1, max_size=8).map(lambda text: " ".join(text.split())).filter(bool)


@given(
    st.lists(names, min_size=1, max_size=6, unique_by=str.lower),
    st.lists(st.none() | st.floats(0, 1), min_size=6, max_size=6),
    st.lists(names.map(lambda text: "+" + text.lower()), max_size=3, unique=True),
)
def test_to_dict_round_trips_through_sorted_json(
    class_names: list[str], thresholds: list[float | None], negatives: list[str]
) -> None:
    specs = tuple(
        ClassSpec(row, name, (f"{row} {name}", f"{name} {row}"), box_threshold=thresholds[row - 1])
        for row, name in enumerate(class_names, start=1)
    )
    ontology = Ontology(specs, tuple(negatives))
    text = json.dumps(ontology.to_dict(), sort_keys=True, allow_nan=False)
    assert Ontology.from_dict(json.loads(text)) == ontology
