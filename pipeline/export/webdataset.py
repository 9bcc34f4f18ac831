"""WebDataset: tar files with an image and its JSON side by side."""

import io
import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.errors import UserError
from pipeline.export.folder import check_image
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.writer import Context, Writer

DEFAULT_SHARD_SIZE = 1000


class WebdatasetWriter(Writer):
    """Writes SIDE-000000.tar and so on (`data-` without a split), and classes.json.

    A sample's key is its image id; its members are KEY.json and the image file, KEY with the file's own ending. An
    image is always inside of its tar, unless it is left out with `images` none. The same labels give the same bytes.
    """

    uses = frozenset({"shard_size"})

    side_folders = False

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        self._size = context.options.shard_size or DEFAULT_SHARD_SIZE
        self._tars: dict[str, tarfile.TarFile] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._counts: dict[str, int] = {}
        rows = [{"id": spec.id, "name": spec.name} for spec in context.classes.classes]
        self.write_text("classes.json", json.dumps(rows, ensure_ascii=False, indent=1) + "\n")

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write the members of an image."""
        tar = self._tar(side or "data")
        if self.context.options.images != "none":
            source = self.context.image_file(image)
            check_image(source)
            suffix = PurePosixPath(image.path).suffix.lower()
            if not suffix or suffix == ".json":
                raise UserError(f"{image.path}: WebDataset tells files by their ending, and this image has none")
            with source.open("rb") as stream:
                _add(tar, image.image_id + suffix, stream, source.stat().st_size)
        text = json.dumps(_content(image), ensure_ascii=False, allow_nan=False).encode()
        _add(tar, f"{image.image_id}.json", io.BytesIO(text), len(text))
        self.context.count(image, side)

    def _tar(self, name: str) -> tarfile.TarFile:
        """Return the tar that takes the next image of a side."""
        count = self._counts.get(name, 0)
        if count % self._size == 0:
            if name in self._tars:
                self._tars[name].close()
                self._files[name].close()
            path = self.folder / f"{name}-{count // self._size:06d}.tar"
            raw = self.files.enter_context(path.open("xb"))
            self._files[name] = raw
            self._tars[name] = self.files.enter_context(tarfile.TarFile(path, "w", raw, tarfile.PAX_FORMAT))
        self._counts[name] = count + 1
        return self._tars[name]


def _add(tar: tarfile.TarFile, name: str, stream: Any, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    tar.addfile(member, stream)


def _content(image: ExportImage) -> dict[str, Any]:
    height, width = image.image_hw
    head = {"image_id": image.image_id, "path": image.path, "width": width, "height": height}
    return head | {"objects": [_object(found) for found in image.objects]}


def _object(found: ExportObject) -> dict[str, Any]:
    """Return an object with COCO's words; what is not there is null."""
    return {
        "instance_id": found.instance_id,
        "category_id": found.class_id,
        "category": found.class_name,
        "bbox": list(found.box_xywh),
        "area": found.area,
        "segmentation": None if found.mask is None else found.mask.to_coco(),
        "iscrowd": int(found.crowd),
        "score": found.score,
        "mask_score": found.mask_score,
        "prompt": found.prompt,
        "provenance": found.provenance,
    }
