"""Whole-number ids for COCO that depend on the image alone, not on what else is exported.

An image's id is 39 bits of its own id, an annotation's is the image's id × 2¹⁴ plus its place in the image: 53 bits,
which every JSON reader holds exactly. Two of a million images meet in one number; the later path then takes the next
free one, and only its ids depend on the other image.
"""

from pipeline.errors import UserError
from pipeline.export.objects import ExportImage
from pipeline.paths import path_to_image_id

_IMAGE_BITS = 39
_OBJECT_BITS = 14
_IMAGES = 1 << _IMAGE_BITS
_OBJECTS = 1 << _OBJECT_BITS


class StableIds:
    """Gives images and annotations their ids; remembers the images' numbers, some 60 bytes each."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def image(self, image: ExportImage) -> int:
        """Return an image's id, from 1."""
        text = image.image_id
        try:
            number = int(text, 16)
        except ValueError:
            number = int(path_to_image_id(text), 16)
        number %= _IMAGES
        while number == 0 or number in self._taken:
            number = (number + 1) % _IMAGES
        self._taken.add(number)
        return number

    def annotation(self, image_id: int, row: int, image: ExportImage) -> int:
        """Return the id of an image's object by its place, from 0.

        Raises:
            UserError: The image has more objects than there are ids.
        """
        if row >= _OBJECTS - 1:
            raise UserError(f"{image.path} has more than {_OBJECTS - 1} objects; export with --ids count")
        return image_id * _OBJECTS + row + 1
