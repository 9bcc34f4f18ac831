"""The way from labels to a format's files: what is common to all formats, in one pass over the labels."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, ClassVar, TextIO, cast

from pipeline.export.classes import ClassMap, identity_map, read_class_map
from pipeline.export.empties import EmptyRule
from pipeline.export.folder import ExportOptions, Written, place_image
from pipeline.export.labels import Labels
from pipeline.export.names import FileNames
from pipeline.export.objects import ExportImage, ExportObject, annotated_to_export
from pipeline.records import AnnotatedImage, FailedImage

Assign = Callable[[ExportImage], str | None]
"""Says on which side an image is: "train", "val", "test", or None to leave it out."""

SIDES = ("train", "val", "test")
OPTIONS_OF_SOME = ("compression", "ids", "epsilon", "shard_size")
"""Options that only some formats use; elsewhere they are refused, not passed over."""


@dataclass(frozen=True)
class Context:
    """What a format's writer is given.

    Attributes:
        labels: Where the images come from.
        options: What the user wants.
        classes: The classes of the export; the objects' class ids are theirs.
        written: To be filled with what the format leaves out.
        names: Gives files their names.
        split: Whether images have sides.
    """

    labels: Labels
    options: ExportOptions
    classes: ClassMap
    written: Written
    names: FileNames
    split: bool

    def image_file(self, image: ExportImage) -> Path:
        """Return where an image's file is."""
        return self.labels.image_path(image)

    def place(self, image: ExportImage, folder: Path, path: str) -> None:
        """Bring an image's file to `folder / path`, as the options say."""
        place_image(self.image_file(image), folder, path, self.options.images)

    def count(self, image: ExportImage, side: str | None) -> None:
        """Count an image and its objects as written."""
        written, key = self.written, side or ""
        written.images += 1
        written.image_counts[key] += 1
        written.empty_images += not image.objects
        if image.coco.licence is not None:
            written.licences[image.coco.licence] += 1
        counts = written.class_counts.setdefault(key, Counter())
        for found in image.objects:
            written.annotations += 1
            counts[found.class_name] += 1
            written.box_sizes[found.class_name].add(*found.box_xywh[2:], image.image_hw)
            written.provenance[found.provenance or "unknown"] += 1

    def only(self, image: ExportImage, reason: str, keep: Callable[[ExportObject], bool]) -> ExportImage:
        """Return the image without the objects that a format cannot express; those are counted under a reason."""
        kept = tuple(found for found in image.objects if keep(found))
        if len(kept) == len(image.objects):
            return image
        self.written.not_expressible[reason] += len(image.objects) - len(kept)
        return replace(image, objects=kept)

    def without_crowds(self, image: ExportImage) -> ExportImage:
        """Return the image without crowds, for formats that would take one for a single object."""
        return self.only(image, "crowds", lambda found: not found.crowd)

    def with_masks(self, image: ExportImage) -> ExportImage:
        """Return the image without the objects that are boxes alone."""
        return self.only(image, "boxes without a mask", lambda found: found.mask is not None)


class Writer(ABC):
    """Writes one format into one folder, an image at a time.

    Args:
        folder: There, and empty but for other writers' sides.
        context: Common to all writers of an export.
    """

    side_folders: ClassVar[bool] = True
    """Whether each side of a split is an export of its own in a folder of its own; else `add` is told the side."""
    uses: ClassVar[frozenset[str]] = frozenset()
    """Which of OPTIONS_OF_SOME the format has a use for."""

    def __init__(self, folder: Path, context: Context) -> None:
        self.folder, self.context = folder, context
        self.files = ExitStack()

    @abstractmethod
    def add(self, image: ExportImage, side: str | None) -> None:
        """Write an image and call `context.count` with what was written of it.

        Args:
            image: With the classes of the export.
            side: One of SIDES, or None without a split.

        Raises:
            UserError: The format cannot hold it, or its file is gone.
        """

    def finish(self) -> None:  # noqa: B027 (most formats have nothing to add)
        """Write what comes after the last image."""

    def open_text(self, path: str, mode: str = "x", encoding: str = "utf-8") -> TextIO:
        """Open a text file below the folder that is closed with the writer; its folders are made."""
        return cast(TextIO, self._open(path, mode, encoding))

    def _open(self, path: str, mode: str, encoding: str | None) -> IO[Any]:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return self.files.enter_context(target.open(mode, encoding=encoding, newline=""))

    def write_text(self, path: str, text: str) -> None:
        """Write a whole text file below the folder; its folders are made, and nothing is overwritten.

        Raises:
            FileExistsError: The file is there already.
        """
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8", newline="") as stream:
            stream.write(text)


def write_images(
    labels: Labels,
    folder: Path,
    options: ExportOptions,
    make: type[Writer],
    assign: Assign | None = None,
) -> Written:
    """Write labels in a format.

    Args:
        labels: Read once.
        folder: Empty.
        options: What the user wants.
        make: The format's writer.
        assign: Puts images on sides; None makes no split.

    Raises:
        UserError: Labels or class file are wrong, an image is gone, or the format cannot hold what there is.
    """
    classes = read_class_map(options.classes, labels.ontology) if options.classes else identity_map(labels.ontology)
    written, names = Written(folder), FileNames()
    context = Context(labels, options, classes, written, names, assign is not None)
    writers: dict[str | None, Writer] = {}
    with ExitStack() as stack:

        def writer_of(side: str | None) -> Writer:
            if side not in writers:
                place = folder / side if side else folder
                place.mkdir(exist_ok=True)
                writers[side] = make(place, context)
                stack.enter_context(writers[side].files)
            return writers[side]

        for image in _select(labels, options, classes, written):
            side = None if assign is None else assign(image)
            if assign is not None and side is None:
                written.unassigned += 1
                continue
            if side not in (None, *SIDES):
                raise ValueError(f"{side!r} is no side; the sides are {', '.join(SIDES)}")
            own_folder = side if make.side_folders else None
            writer_of(own_folder).add(image, side)
        if not writers:
            writer_of(None)
        for own_folder, writer in writers.items():
            said = len(written.notes)
            writer.finish()
            written.notes[said:] = [f"{own_folder}: {note}" if own_folder else note for note in written.notes[said:]]
    written.renamed = names.renamed
    return written


def _select(labels: Labels, options: ExportOptions, classes: ClassMap, written: Written) -> Iterator[ExportImage]:
    """Yield the images of an export with their classes in it, and note what is left out."""
    rule = EmptyRule.parse(options.empty)
    for record in labels.records():
        if isinstance(record, FailedImage):
            written.failed.append((record.path, record.reason))
            continue
        image = annotated_to_export(record) if isinstance(record, AnnotatedImage) else record
        written.empty_masks += [(image.path, instance_id) for instance_id in image.empty_masks]
        image = _with_classes(image, classes, written)
        if not image.objects and not rule.keeps(image.image_id):
            written.dropped_empty += 1
            continue
        yield image


def _with_classes(image: ExportImage, classes: ClassMap, written: Written) -> ExportImage:
    objects = []
    changed = False
    for found in image.objects:
        new_id = classes.new_ids.get(found.class_id)
        if new_id is None:
            written.dropped_classes[found.class_name] += 1
            changed = True
            continue
        name = classes.name_of(new_id)
        if (new_id, name) != (found.class_id, found.class_name):
            changed = True
            objects.append(replace(found, class_id=new_id, class_name=name))
        else:
            objects.append(found)
    return replace(image, objects=tuple(objects)) if changed else image
