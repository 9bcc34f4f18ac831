"""What a COCO file says besides its labels: categories, licences, videos, and which ids are whole numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.class_spec import ClassSpec, normalise_prompt
from models.ontology import Ontology
from pipeline.errors import UserError

_IDS = 1 << 53
"""Ids are below, so that every JSON reader holds them exactly."""


@dataclass(frozen=True)
class CocoCategory:
    """What a COCO file says of a class besides its name.

    Attributes:
        id: From 0; None where an id of the file is no such whole number.
        supercategory: "" where it has none.
    """

    id: int | None
    supercategory: str


def read_licences(listed: Any) -> list[dict[str, Any]]:
    """Return COCO's `licenses` that have a whole number as id."""
    rows = listed if isinstance(listed, list) else []
    return [one for one in rows if isinstance(one, dict) and whole_id(one.get("id"), 0) is not None]


def whole_id(value: Any, lowest: int) -> int | None:
    """Return an id that can be kept as it is, from `lowest` up; None for another one."""
    return value if type(value) is int and lowest <= value < _IDS else None


def read_video_names(listed: Any) -> dict[int | str, str]:
    """Return the name of each video by its id, from the `videos` that files of video frames have."""
    rows = listed if isinstance(listed, list) else []
    named = [one for one in rows if isinstance(one, dict) and isinstance(one.get("id"), int | str) and one.get("name")]
    return {one["id"]: str(one["name"]) for one in named}


def video_of(image: Mapping[str, Any], names: Mapping[int | str, str]) -> str | None:
    """Return the video that an image of a COCO file is a frame of, by its name rather than by its id; None for none.

    Args:
        image: The file's entry; `video_name` and `video_id` are looked at.
        names: Of `read_video_names`; ids of two files need not mean the same videos, their names do.
    """
    name, number = image.get("video_name"), image.get("video_id")
    if isinstance(name, str) and name:
        return name
    if not isinstance(number, int | str) or number == "":
        return None
    return names.get(number, str(number))


def read_categories(file: Path, categories: Sequence[Any]) -> tuple[dict[Any, int], Ontology, dict[int, CocoCategory]]:
    """Return COCO's category id -> class id, the classes, and what else there is of each by its id.

    Raises:
        UserError: A category has no name or id, two have the same, or the names cannot be told apart.
    """
    try:
        ordered = sorted(categories, key=lambda category: category["id"])
        ids = {category["id"]: row for row, category in enumerate(ordered, start=1)}
        names = [str(category["name"]) for category in ordered]
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: a category has no name or no proper id ({error})") from error
    if len(ids) != len(names):
        raise UserError(f"{file}: two categories have the same id; `groundlabel lint {file}` names them")
    taken: set[str] = set()
    specs = []
    for row, name in enumerate(names, start=1):
        prompt = normalise_prompt(name.replace(".", " ").replace("?", " "))
        prompt = prompt if prompt and prompt not in taken else f"class {row}"
        taken.add(prompt)
        specs.append(ClassSpec(row, name, (prompt,)))
    whole = all(whole_id(category["id"], 0) is not None for category in ordered)
    rows = {
        row: CocoCategory(category["id"] if whole else None, str(category.get("supercategory") or ""))
        for row, category in enumerate(ordered, start=1)
    }
    try:
        return ids, Ontology(tuple(specs)), rows
    except ValueError as error:
        raise UserError(f"{file}: its categories cannot be used: {error}") from error
