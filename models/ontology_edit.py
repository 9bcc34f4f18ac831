"""Putting thresholds into an ontology file, where all that is not changed stays as a person wrote it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from models.class_spec import ClassSpec, normalise_prompt
from models.ontology_file import parse_file, parse_text

_KEY = "box_threshold"
_DEEPER = "  "


@dataclass(frozen=True)
class _Edit:
    """Text in place of what stands from start to end, both counted in characters."""

    start: int
    end: int
    text: str


def with_thresholds(path: Path, thresholds: Mapping[str, float]) -> str:
    """Return the text of an ontology file in which classes have these box thresholds.

    Comments, order, quotes and all other keys stay. A class that was a list of prompts becomes one with keys.

    Args:
        path: A YAML or JSON file, which is only read.
        thresholds: Class name -> threshold in [0, 1]; letter case and spaces do not count.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no ontology, it lacks a class, or its form has no place for thresholds.
    """
    classes, negatives = parse_file(path)
    wanted = {normalise_prompt(name): value for name, value in thresholds.items()}
    known = {normalise_prompt(spec.name) for spec in classes}
    if lacking := [name for name in thresholds if normalise_prompt(name) not in known]:
        raise ValueError(f"{path}: has no class {lacking[0]!r}; give the ontology file that the run was made with")
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    is_json = path.suffix.lower() == ".json"
    edits = [edit for name, pair in _entries(text, path).items() if name in wanted for edit in pair.edits(wanted[name])]
    for edit in sorted(edits, key=lambda edit: -edit.start):
        text = text[: edit.start] + edit.text + text[edit.end :]
    expected = tuple(_with(spec, wanted) for spec in classes)
    try:
        if parse_text(text, str(path), is_json) != (expected, negatives):
            raise ValueError("the classes came out different")
    except ValueError as error:
        raise ValueError(
            f"{path}: its form cannot take thresholds without being rewritten ({error}); write the class as "
            f"`{next(iter(thresholds))}: {{prompts: [...], box_threshold: {next(iter(thresholds.values())):g}}}`"
        ) from error
    return text


def _with(spec: ClassSpec, wanted: Mapping[str, float]) -> ClassSpec:
    return replace(spec, box_threshold=wanted.get(normalise_prompt(spec.name), spec.box_threshold))


@dataclass(frozen=True)
class _Entry:
    """Where a class stands: its name and its value; no value for a bare name in a list."""

    text: str
    name: yaml.ScalarNode
    value: yaml.Node | None
    is_json: bool

    def edits(self, threshold: float) -> list[_Edit]:
        """Return what to change for the class to have a threshold."""
        number = repr(float(threshold))
        if self.value is None:
            key = '"name": ' if self.is_json else "name: "
            written = self.text[self.name.start_mark.index : self.name.end_mark.index]
            return [self._over(self.name, f"{{{key}{written}, {self._key}: {number}}}")]
        if isinstance(self.value, yaml.MappingNode):
            return [self._in_mapping(self.value, number)]
        if isinstance(self.value, yaml.SequenceNode) and not self.value.flow_style:
            return self._under_key(self.value, number)
        written = self.text[self.value.start_mark.index : self.value.end_mark.index]
        if self.value.tag == "tag:yaml.org,2002:null":
            space = "" if self.text[self.value.start_mark.index - 1 : self.value.start_mark.index] == " " else " "
            return [self._over(self.value, f"{space}{{{self._key}: {number}}}")]
        prompts = '"prompts": ' if self.is_json else "prompts: "
        return [self._over(self.value, f"{{{prompts}{written}, {self._key}: {number}}}")]

    @property
    def _key(self) -> str:
        return json.dumps(_KEY) if self.is_json else _KEY

    @staticmethod
    def _over(node: yaml.Node, text: str) -> _Edit:
        return _Edit(node.start_mark.index, node.end_mark.index, text)

    def _in_mapping(self, node: yaml.MappingNode, number: str) -> _Edit:
        """Replace the number that is there, or add one before the second key, or the only one."""
        for key, value in node.value:
            if key.value == _KEY:
                return self._over(value, number)
        place = node.value[min(1, len(node.value) - 1)][0].start_mark
        if node.flow_style:
            return _Edit(place.index, place.index, f"{self._key}: {number}, ")
        return _Edit(place.index, place.index, f"{_KEY}: {number}\n{' ' * place.column}")

    def _under_key(self, node: yaml.SequenceNode, number: str) -> list[_Edit]:
        """Put a list of prompts, a line each, under the key `prompts`."""
        mark = node.value[0].start_mark
        start, end = mark.index - mark.column, node.value[-1].end_mark.index
        lines = self.text[start:end].replace("\n", "\n" + _DEEPER)
        inner = " " * self.name.start_mark.column + _DEEPER
        return [_Edit(start, end, f"{inner}{_KEY}: {number}\n{inner}prompts:\n{_DEEPER}{lines}")]


def _entries(text: str, path: Path) -> dict[str, _Entry]:
    """Return where each class stands, by normalised name."""
    is_json = path.suffix.lower() == ".json"
    node = yaml.compose(text.replace("\t", " ") if is_json else text, Loader=yaml.SafeLoader)
    if isinstance(node, yaml.MappingNode):
        sections = {str(key.value).lower(): value for key, value in node.value}
        if "prompts" in sections:
            raise ValueError(
                f"{path}: written as `prompt: class`, which has no place for thresholds; "
                "write it as `class: [prompts]` first"
            )
        node = sections.get("classes", node)
    found: dict[str, _Entry] = {}
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if isinstance(item, yaml.ScalarNode):
                found[normalise_prompt(item.value)] = _Entry(text, item, None, is_json)
            else:
                name = next(value for key, value in item.value if key.value == "name")
                found[normalise_prompt(name.value)] = _Entry(text, name, item, is_json)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found[normalise_prompt(str(key.value))] = _Entry(text, key, value, is_json)
    return found
