"""Reading ontology files: YAML and JSON, with the line of every name and prompt for the error messages."""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from models.class_spec import ClassSpec, check_classes, normalise_prompt

_TOP_KEYS = ("classes", "prompts", "negatives")
_CLASS_KEYS = ("prompts", "box_threshold", "text_threshold", "color")
_ALIASES = {"colour": "color", "prompt": "prompts", "negative": "negatives"}

Parsed = tuple[tuple[ClassSpec, ...], tuple[str, ...]]
"""The classes and the negative prompts."""


@dataclass
class _Draft:
    """A class while it is read, with the lines (from 1; 0 where unknown) of its name and prompts."""

    name: str
    line: int
    prompts: list[tuple[str, int]] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    color: str | None = None


def parse_file(path: Path) -> Parsed:
    """Read an ontology file; see `Ontology.from_file` for its forms.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Something in it is wrong; the message names file, line and class.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f'the ontology file {path} {what}; give a YAML or JSON file, or names: "person, car"')
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); save the ontology as UTF-8") from error
    return parse_text(text, str(path), path.suffix.lower() == ".json")


def parse_text(text: str, source: str, is_json: bool) -> Parsed:
    """Read the text of an ontology file.

    Args:
        text: All of it.
        source: The file's name, for the messages.
        is_json: It must be JSON; else YAML.

    Raises:
        ValueError: As `parse_file`.
    """
    if is_json:
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{source}:{error.lineno}: not valid JSON: {error.msg}") from error
        text = text.replace("\t", " ")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{source}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: not valid YAML: {error}") from error
    return _Reader(source).read(node)


def parse_mapping(mapping: Mapping[str, Any]) -> Parsed:
    """Read the parsed form of an ontology file, or what `Ontology.to_dict` made.

    Raises:
        ValueError: Something in it is wrong; the message names the class.
    """
    try:
        node = yaml.representer.SafeRepresenter(sort_keys=False).represent_data(dict(mapping))
    except yaml.representer.RepresenterError as error:
        raise ValueError(f"an ontology is made of texts, numbers, lists and mappings: {error.args[0]}") from error
    return _Reader("").read(node)


class _Reader:
    """Turns a YAML node tree into classes; `source` is the file's name, or empty."""

    def __init__(self, source: str) -> None:
        self._source = source

    def read(self, node: yaml.Node | None) -> Parsed:
        if node is None or _is_null(node):
            raise ValueError(f"{self._source or 'the ontology'}: no class in it; write `class: prompt` lines")
        drafts: list[_Draft] = []
        negatives: list[tuple[str, int]] = []
        if isinstance(node, yaml.SequenceNode):
            drafts = self._classes(node)
        else:
            bare: list[tuple[yaml.Node, yaml.Node]] = []
            sections: dict[str, yaml.Node] = {}
            for key, key_node, value in self._pairs(node, "the ontology", repeats=True):
                if key.lower() in _TOP_KEYS:
                    if key.lower() in sections:
                        raise self._error(f"the section {key!r} is given twice", key_node)
                    sections[key.lower()] = value
                else:
                    bare.append((key_node, value))
            forms = [name for name in ("classes", "prompts") if name in sections]
            if len(forms) + bool(bare) > 1:
                first = bare[0][0] if bare else sections["prompts"]
                raise self._error(
                    "classes stand in one place only: under `classes:`, under `prompts:` or at the top"
                    + (_nearest(str(bare[0][0].value), _TOP_KEYS) if bare else ""),
                    first,
                )
            if "prompts" in sections:
                drafts = self._by_prompt(sections["prompts"])
            elif "classes" in sections:
                drafts = self._classes(sections["classes"])
            else:
                drafts = [self._draft(name, value) for name, value in bare]
            if "negatives" in sections:
                negatives = self._prompts(sections["negatives"], "negatives")
        return self._checked(drafts, negatives)

    def _checked(self, drafts: list[_Draft], negatives: list[tuple[str, int]]) -> Parsed:
        classes = tuple(
            ClassSpec(row, draft.name, tuple(text for text, _ in draft.prompts), **draft.numbers, color=draft.color)
            for row, draft in enumerate(drafts, start=1)
        )

        def locate(class_row: int | None, prompt_row: int | None) -> str:
            if class_row is None:
                return self._at(negatives[prompt_row][1] if prompt_row is not None else 0, "negatives")
            draft = drafts[class_row]
            line = draft.line if prompt_row is None else draft.prompts[prompt_row][1]
            return self._at(line, f"class {draft.name!r}")

        if not classes:
            raise ValueError(f"{self._source or 'the ontology'}: no class in it; write `class: prompt` lines")
        negative_texts = tuple(normalise_prompt(text) for text, _ in negatives)
        check_classes(classes, negative_texts, locate)
        return classes, negative_texts

    def _classes(self, node: yaml.Node) -> list[_Draft]:
        if isinstance(node, yaml.SequenceNode):
            return [self._list_item(item) for item in node.value]
        return [self._draft(key_node, value) for _, key_node, value in self._pairs(node, "`classes`", repeats=True)]

    def _list_item(self, node: yaml.Node) -> _Draft:
        if isinstance(node, yaml.ScalarNode):
            return self._draft(node, None)
        names = [(key, value) for key, _, value in self._pairs(node, "a class") if key == "name"]
        if not names:
            raise self._error("a class in a list needs a `name`", node)
        body = yaml.MappingNode(node.tag, [pair for pair in node.value if pair[0].value != "name"], node.start_mark)
        return self._draft(names[0][1], body if body.value else None)

    def _by_prompt(self, node: yaml.Node) -> list[_Draft]:
        drafts: dict[str, _Draft] = {}
        for prompt, key_node, value in self._pairs(node, "`prompts`", repeats=True):
            name = self._text(value, f"the class of the prompt {prompt!r}")
            draft = drafts.setdefault(" ".join(name.lower().split()), _Draft(name.strip(), _line(value)))
            draft.prompts.append((prompt, _line(key_node)))
        return list(drafts.values())

    def _draft(self, name_node: yaml.Node, value: yaml.Node | None) -> _Draft:
        draft = _Draft(self._text(name_node, "a class name").strip(), _line(name_node))
        owner = f"class {draft.name!r}"
        if value is None or _is_null(value):
            draft.prompts = [(draft.name, draft.line)]
        elif not isinstance(value, yaml.MappingNode):
            draft.prompts = self._prompts(value, owner)
        else:
            draft.prompts = [(draft.name, draft.line)]
            for key, key_node, part in self._pairs(value, owner):
                if key not in _CLASS_KEYS:
                    raise self._error(f"unknown key {key!r}{_nearest(key, _CLASS_KEYS)}", key_node, owner)
                if key == "prompts":
                    draft.prompts = self._prompts(part, owner)
                elif key == "color":
                    if _is_null(part):
                        raise self._error(
                            'color is empty; quote it, as "#ff8800": a bare # starts a comment', part, owner
                        )
                    draft.color = self._text(part, "color")
                else:
                    draft.numbers[key] = self._number(part, key, owner)
        return draft

    def _prompts(self, node: yaml.Node, owner: str) -> list[tuple[str, int]]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return [(self._text(item, "a prompt", owner), _line(item)) for item in nodes]

    def _pairs(self, node: yaml.Node, owner: str, repeats: bool = False) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Yield (key, key node, value node); keys that start with // are comments (JSON has no others)."""
        if not isinstance(node, yaml.MappingNode):
            raise self._error("expected a mapping such as `car: [car, taxi]`", node, owner)
        seen: set[str] = set()
        for key_node, value in node.value:
            key = self._text(key_node, "a key", owner)
            if key.startswith("//"):
                continue
            if key in seen and not repeats:
                raise self._error(f"{key!r} is given twice", key_node, owner)
            seen.add(key)
            yield key, key_node, value

    def _text(self, node: yaml.Node, what: str, owner: str = "") -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(f"{what} must be a text, not a list or mapping", node, owner)
        if _is_null(node):
            return ""
        return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _number(self, node: yaml.Node, key: str, owner: str) -> float:
        text = self._text(node, key, owner)
        try:
            return float(text)
        except ValueError as error:
            raise self._error(f"{key} must be a number from 0 to 1, not {text!r}", node, owner) from error

    def _at(self, line: int, owner: str) -> str:
        place = f"{self._source}:{line}" if self._source and line else self._source
        return ": ".join(part for part in (place, owner) if part)

    def _error(self, message: str, node: yaml.Node, owner: str = "") -> ValueError:
        where = self._at(_line(node), owner)
        return ValueError(f"{where}: {message}" if where else message)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null" and node.value in ("", "null")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


def _nearest(word: str, known: tuple[str, ...]) -> str:
    found = difflib.get_close_matches(word.lower(), (*known, *_ALIASES), n=1)
    return f"; did you mean {_ALIASES.get(found[0], found[0])!r}?" if found else f"; known are {', '.join(known)}"
