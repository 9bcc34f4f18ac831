"""The classes of an export: those of the labels, or renamed, merged and dropped by a file."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.class_spec import ClassSpec, normalise_prompt
from models.ontology import Ontology
from pipeline.errors import UserError

_FORM = "a line a class: `new name: old name`, or `new name: [old, old]`; what is not named is dropped"


@dataclass(frozen=True)
class ExportClass:
    """A class of an export: its id from 1, its name, and (red, green, blue) from 0 to 255."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class ClassMap:
    """Which class each class of the labels becomes.

    Attributes:
        classes: The classes of the export, in the order of their ids.
        new_ids: Class id of the labels -> class id of the export; a class that is dropped is not in it.
    """

    classes: tuple[ExportClass, ...]
    new_ids: dict[int, int]

    def name_of(self, class_id: int) -> str:
        """Return the name of a class of the export."""
        return self.classes[class_id - 1].name


def identity_map(ontology: Ontology) -> ClassMap:
    """Return the map that leaves the classes as they are."""
    rows = zip(ontology.classes, ontology.colors, strict=True)
    classes = tuple(ExportClass(spec.id, spec.name, color) for spec, color in rows)
    return ClassMap(classes, {spec.id: spec.id for spec in ontology.classes})


def read_class_map(path: str | Path, ontology: Ontology) -> ClassMap:
    """Read a YAML or JSON file of `new: [old, …]`; the order of the file is the order of the new ids.

    Args:
        path: The file.
        ontology: The classes of the labels; letter case and spaces around a name do not matter.

    Raises:
        UserError: There is no such file, it has another form, names a class that the labels do not have, or one twice.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror} (--classes)") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: must hold {_FORM}")
    known = {normalise_prompt(spec.name): spec for spec in ontology.classes}
    classes: list[ExportClass] = []
    new_ids: dict[int, int] = {}
    names: set[str] = set()
    for new_id, (name, sources) in enumerate(content.items(), start=1):
        text = " ".join(str(name).split())
        if not text or text.lower() in names:
            raise UserError(f"{path}: the new class {text!r} is empty or given twice (letter case does not count)")
        names.add(text.lower())
        olds = [_find(path, text, old, known) for old in _as_list(path, text, sources)]
        for old in olds:
            if old.id in new_ids:
                raise UserError(f"{path}: {old.name!r} stands under two new classes; a class becomes one class")
            new_ids[old.id] = new_id
        classes.append(ExportClass(new_id, text, ontology.colors[olds[0].id - 1]))
    return ClassMap(tuple(classes), new_ids)


def _as_list(path: Path, name: str, sources: Any) -> list[str]:
    if sources is None:
        return [name]
    found = sources if isinstance(sources, list) else [sources]
    if not found or not all(isinstance(source, str | int | float) for source in found):
        raise UserError(f"{path}: {name!r} must be made of one or more names; the file holds {_FORM}")
    return [str(source) for source in found]


def _find(path: Path, name: str, old: str, known: Mapping[str, ClassSpec]) -> ClassSpec:
    spec = known.get(normalise_prompt(old))
    if spec is None:
        near = difflib.get_close_matches(normalise_prompt(old), known, n=1)
        hint = f"; did you mean {known[near[0]].name!r}?" if near else f"; there are {', '.join(list(known)[:20])}"
        raise UserError(f"{path}: {name!r} is made of {old!r}, which the labels do not have{hint}")
    return spec
