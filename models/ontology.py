"""The classes to label: names, prompts, thresholds and colours, checked once where they are made."""

import colorsys
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from models.class_spec import ClassSpec, check_classes, normalise_prompt
from models.ontology_file import parse_file, parse_mapping

_PALETTE = (
    *("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#00b3b3", "#f032e6", "#9acd00", "#c2185b", "#008080"),
    *("#b8860b", "#9a6324", "#d4ac0d", "#800000", "#2ecc71", "#808000", "#ff6f61", "#000075", "#7f8c8d", "#1e88e5"),
)
_GOLDEN_RATIO = 0.618033988749895


@dataclass(frozen=True)
class Prompt:
    """One prompt of the ontology.

    Attributes:
        index: From 0, the order of `Ontology.prompts`.
        text: Normalised.
        class_id: The class that a box found by it gets; 0 for a negative prompt, whose boxes are dropped.
    """

    index: int
    text: str
    class_id: int


@dataclass(frozen=True)
class Ontology:
    """All classes of a run, in order, and prompts that only take boxes away.

    Attributes:
        classes: At least one, with the ids 1, 2, 3 ….
        negatives: Prompts whose boxes are dropped after detection, normalised; may be empty.

    Raises:
        ValueError: A name or prompt is empty, given twice or not usable, or a threshold or colour is out of range.
    """

    classes: tuple[ClassSpec, ...]
    negatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "negatives", tuple(normalise_prompt(text) for text in self.negatives))
        check_classes(self.classes, self.negatives, self._locate)

    def _locate(self, class_row: int | None, prompt_row: int | None) -> str:
        if class_row is None:
            return "negatives"
        return f"class {self.classes[class_row].name!r}"

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts: the classes' in their order, then the negatives."""
        pairs = [(text, spec.id) for spec in self.classes for text in spec.prompts]
        pairs += [(text, 0) for text in self.negatives]
        return tuple(Prompt(index, text, class_id) for index, (text, class_id) in enumerate(pairs))

    @cached_property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        """One (red, green, blue) a class, 0 to 255: its own or from a palette of distinct colours."""
        return tuple(_rgb(spec.color or _palette_color(row)) for row, spec in enumerate(self.classes))

    def class_by_id(self, class_id: int) -> ClassSpec:
        """Return the class with this id.

        Raises:
            ValueError: No class has it.
        """
        if not 1 <= class_id <= len(self.classes):
            raise ValueError(f"class ids run from 1 to {len(self.classes)}, there is no {class_id}")
        return self.classes[class_id - 1]

    def name_of(self, class_id: int) -> str:
        """Return the name of the class with this id.

        Raises:
            ValueError: No class has it.
        """
        return self.class_by_id(class_id).name

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form that `from_dict` reads back; equal ontologies give equal forms."""
        classes = []
        for spec in self.classes:
            given = {"box_threshold": spec.box_threshold, "text_threshold": spec.text_threshold, "color": spec.color}
            row: dict[str, Any] = {"name": spec.name, "prompts": list(spec.prompts)}
            classes.append(row | {key: value for key, value in given.items() if value is not None})
        return {"classes": classes, "negatives": list(self.negatives)}

    @classmethod
    def from_names(cls, names: str | Sequence[str]) -> "Ontology":
        """Make an ontology in which each class is its own only prompt.

        Args:
            names: "person, car, traffic light", or the names one by one.

        Raises:
            ValueError: A name is empty, given twice, or has a "." or "?".
        """
        parts = names.split(",") if isinstance(names, str) else list(names)
        return cls(tuple(ClassSpec(row, name, (name,)) for row, name in enumerate(parts, start=1)))

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> "Ontology":
        """Make an ontology from the parsed form of an ontology file.

        Raises:
            ValueError: As `from_file`, without file and line.
        """
        return cls(*parse_mapping(mapping))

    @classmethod
    def from_file(cls, path: str | Path) -> "Ontology":
        """Read a YAML or JSON file.

        Forms: `class: prompt`, `class: [prompts]`, `class: {prompts: [...], box_threshold: .3, text_threshold: .25,
        color: "#ff0000"}`, at the top or under `classes:`; `prompt: class` under `prompts:`; `negatives: [...]`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: Something in it is wrong; the message names file, line and class.
        """
        return cls(*parse_file(Path(path)))

    @classmethod
    def parse(cls, text_or_path: str) -> "Ontology":
        """Read what a command line gives: a file if one exists or the name ends as one, else names with commas.

        Raises:
            FileNotFoundError: The name ends in .yaml, .yml or .json and there is no such file.
            ValueError: As `from_file` and `from_names`.
        """
        if os.path.isfile(text_or_path) or text_or_path.strip().lower().endswith((".yaml", ".yml", ".json")):
            return cls.from_file(text_or_path)
        return cls.from_names(text_or_path)


def _palette_color(row: int) -> str:
    if row < len(_PALETTE):
        return _PALETTE[row]
    rgb = colorsys.hsv_to_rgb(row * _GOLDEN_RATIO % 1, (0.65, 0.95)[row % 2], (0.9, 0.65)[row // 2 % 2])
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
