"""The contact sheet of a trial: a row an image, a column an ontology, the most disputed images first."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from models.class_spec import ClassSpec, normalise_prompt
from models.ontology import Ontology
from pipeline.errors import UserError
from pipeline.images import UnreadableImageError, read_image
from pipeline.preview import Rgb, arrange_sheet, draw_labels, frame_picture, sheet_width
from pipeline.trial.arms import Arm

_WIDEST_SIDE = {1: 640, 2: 560, 3: 460}
_NARROWEST_SIDE = 380
_MOST_LEGEND = 40


def draw_trial(arms: Sequence[Arm], image_ids: Sequence[str]) -> Image.Image:
    """Draw images as each ontology labels them; a class has the same colour in all.

    Args:
        arms: At least one.
        image_ids: Labelled images, in the order of the rows; not empty.

    Raises:
        UserError: An image is gone or cannot be read.
    """
    colors = _class_colors([arm.ontology for arm in arms])
    side = _WIDEST_SIDE.get(len(arms), _NARROWEST_SIDE)
    found = [arm.images() for arm in arms]
    rows = []
    for image_id in image_ids:
        records = [images[image_id] for images in found]
        path = arms[0].image_path(records[0])
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            raise UserError(f"{path}: cannot be shown: {error}") from error
        pictures = [
            draw_labels(image, record, [colors[normalise_prompt(spec.name)] for spec in arm.ontology.classes], side)
            for arm, record in zip(arms, records, strict=True)
        ]
        size = side, max(picture.height for picture in pictures)
        rows.append(
            [
                frame_picture(picture, record, size, f"{record.path} · {arm.name}")
                for picture, record, arm in zip(pictures, records, arms, strict=True)
            ]
        )
    shown = {normalise_prompt(name) for images in found for key in image_ids for name in images[key].class_names}
    legend: list[tuple[str, Rgb]] = [(name, color) for name, color in colors.items() if name in shown]
    return arrange_sheet(rows, sheet_width(len(arms), side), legend[:_MOST_LEGEND])


def _class_colors(ontologies: Sequence[Ontology]) -> dict[str, Rgb]:
    """Return a colour for each class of any ontology, by normalised name; the first that has it decides."""
    specs: dict[str, ClassSpec] = {}
    for spec in (spec for ontology in ontologies for spec in ontology.classes):
        row = len(specs) + 1
        specs.setdefault(normalise_prompt(spec.name), replace(spec, id=row, prompts=(f"class {row}",)))
    return dict(zip(specs, Ontology(tuple(specs.values())).colors, strict=True))


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write the sheet as a JPEG."""
    sheet.save(path, quality=88)
