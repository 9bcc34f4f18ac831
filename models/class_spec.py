"""One class of an ontology, and what makes a list of classes one that can be labelled."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_COLOR = re.compile(r"#[0-9a-f]{6}")

Locate = Callable[[int | None, int | None], str]
"""(row of the class, row of its prompt) -> where that is, for an error message; no class row means the negatives."""


def normalise_prompt(text: str) -> str:
    """Return a prompt in lower case with single spaces and none around it."""
    return " ".join(text.lower().split())


@dataclass(frozen=True)
class ClassSpec:
    """One class.

    Attributes:
        id: From 1, in the order in which the classes were given; never depends on what is found.
        name: As written, without surrounding spaces; letter case does not tell two classes apart.
        prompts: What the detector is asked for, normalised; at least one.
        box_threshold: Lowest score of a box of this class in [0, 1]; None means the run's.
        text_threshold: Lowest score of a box's words in [0, 1]; None means the run's.
        color: "#rrggbb", or None for one of a fixed palette.
    """

    id: int
    name: str
    prompts: tuple[str, ...]
    box_threshold: float | None = None
    text_threshold: float | None = None
    color: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", " ".join(self.name.split()))
        object.__setattr__(self, "prompts", tuple(normalise_prompt(prompt) for prompt in self.prompts))
        if self.color is not None:
            object.__setattr__(self, "color", "#" + self.color.strip().lower().removeprefix("#"))


def check_classes(classes: Sequence[ClassSpec], negatives: Sequence[str], locate: Locate) -> None:
    """Refuse what cannot be labelled.

    Args:
        classes: In order; their ids must be 1, 2, 3 ….
        negatives: Normalised prompts.
        locate: Says where a class or prompt stands, for the message.

    Raises:
        ValueError: Starts with what `locate` returns.
    """
    if not classes:
        raise ValueError("an ontology needs at least one class")
    names: dict[str, int] = {}
    prompts: dict[str, str] = {}
    for row, spec in enumerate(classes):
        if spec.id != row + 1:
            raise ValueError(f"{locate(row, None)}: class ids must be 1, 2, 3 …, not {spec.id} at place {row + 1}")
        if not spec.name:
            raise ValueError(f"{locate(row, None)}: the class name is empty (class number {row + 1})")
        if spec.name.lower() in names:
            first = classes[names[spec.name.lower()]].name
            raise ValueError(
                f"{locate(row, None)}: the class is given twice (first as {first!r}; case does not matter)"
            )
        names[spec.name.lower()] = row
        _check_numbers(spec, locate(row, None))
        if not spec.prompts:
            raise ValueError(f"{locate(row, None)}: no prompt; give at least one")
        for prompt_row, prompt in enumerate(spec.prompts):
            _check_prompt(prompt, f"class {spec.name!r}", prompts, locate(row, prompt_row))
    for prompt_row, prompt in enumerate(negatives):
        _check_prompt(prompt, "the negatives", prompts, locate(None, prompt_row))


def _check_prompt(prompt: str, owner: str, seen: dict[str, str], where: str) -> None:
    if not prompt:
        raise ValueError(f"{where}: a prompt is empty")
    for mark in ".?":
        if mark in prompt:
            raise ValueError(
                f'{where}: the prompt {prompt!r} has a "{mark}", at which the detector would cut it in two; '
                "leave it out, and separate several prompts with commas or as a list"
            )
    if prompt in seen:
        raise ValueError(f"{where}: the prompt {prompt!r} is given twice (first by {seen[prompt]})")
    seen[prompt] = owner


def _check_numbers(spec: ClassSpec, where: str) -> None:
    for key, value in (("box_threshold", spec.box_threshold), ("text_threshold", spec.text_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{where}: {key} must be a number from 0 to 1, not {value}")
    if spec.color is not None and not _COLOR.fullmatch(spec.color):
        raise ValueError(f'{where}: color must be six hexadecimal digits such as "#ff8800", not {spec.color!r}')
