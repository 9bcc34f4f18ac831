"""Create ML: one JSON file beside the images, with boxes around their centres."""

from pathlib import Path

from pipeline.export.json_list import JsonList
from pipeline.export.objects import ExportImage
from pipeline.export.writer import Context, Writer

DATA = "data"


class CreatemlWriter(Writer):
    """Writes data/annotations.json and the images beside it; a folder of data must hold one JSON file alone.

    Boxes are x and y of the centre, width and height in pixels from the top-left. Crowds are left out, masks and scores
    have no place.

    Source: Apple's documentation, "Building an object detector data source".
    """

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        self._stream = self.open_text(f"{DATA}/annotations.json")
        self._stream.write("[")
        self._list = JsonList(self._stream)

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write the entry of an image."""
        image = self.context.without_crowds(image)
        annotations = []
        for found in image.objects:
            left, top, width, height = found.box_xywh
            box = {"x": left + width / 2, "y": top + height / 2, "width": width, "height": height}
            annotations.append({"label": found.class_name, "coordinates": box})
        self._list.add({"image": image.path, "annotations": annotations})
        self.context.place(image, self.folder / DATA, image.path)
        self.context.count(image, side)

    def finish(self) -> None:
        """Close the list."""
        self._stream.write("\n]\n")
