"""Whole-number ids for COCO that depend on the image alone, not on what else is exported.

An image or annotation from a COCO file keeps the id that it has there. Elsewhere an image's id is 39 bits of its own
id, an annotation's is the image's id × 2¹⁴ plus its place in the image: 53 bits, which every JSON reader holds exactly.
Two of a million images meet in one number; the later path then takes the next free one, and only its ids depend on the
other image.
"""

from pipeline.errors import UserError
from pipeline.export.objects import ExportImage
from pipeline.paths import path_to_image_id

_IMAGE_BITS = 39
_OBJECT_BITS = 14
_IMAGES = 1 << _IMAGE_BITS
_OBJECTS = 1 << _OBJECT_BITS


class StableIds:
    """Gives images and annotations their ids; remembers the images' numbers, some 60 bytes each.

    Args:
        keep: The images are from a COCO file, and ids that they have there are kept; then annotations' numbers are
            remembered, too.
    """

    def __init__(self, keep: bool = False) -> None:
        self._keep = keep
        self._images: set[int] = set()
        self._annotations: set[int] = set()

    def image(self, image: ExportImage) -> int:
        """Return an image's id, from 1, or from 0 where a COCO file has it so."""
        number = image.coco.id
        if number is None or number in self._images:
            number = _own_number(image)
            while number == 0 or number in self._images:
                number = (number + 1) % _IMAGES
        self._images.add(number)
        return number

    def annotation(self, image_id: int, row: int, image: ExportImage) -> int:
        """Return the id of an image's object by its place, from 0.

        Raises:
            UserError: The image has more objects than there are ids.
        """
        kept = image.objects[row].coco_id
        if kept is not None and kept not in self._annotations:
            number = kept
        elif row >= _OBJECTS - 1:
            raise UserError(f"{image.path} has more than {_OBJECTS - 1} objects; export with --ids count")
        else:
            number = (_own_number(image) if self._keep else image_id) * _OBJECTS + row + 1
            while number in self._annotations:
                number += 1
        if self._keep:
            self._annotations.add(number)
        return number


def _own_number(image: ExportImage) -> int:
    """Return the number that follows from an image's own id."""
    text = image.image_id
    try:
        number = int(text, 16)
    except ValueError:
        number = int(path_to_image_id(text), 16)
    return number % _IMAGES
