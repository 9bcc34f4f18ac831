"""A split of the labels that are about to be exported, by `pipeline.splits`."""

from pathlib import Path

from pipeline.export.classes import identity_map, read_class_map
from pipeline.export.labels import Labels
from pipeline.export.objects import annotated_to_export
from pipeline.image_features import alike_in_run
from pipeline.records import AnnotatedImage, FailedImage
from pipeline.splits import Split, SplitImage, SplitSettings, split_images


def split_labels(
    labels: Labels, settings: SplitSettings, classes: str | Path | None = None
) -> tuple[Split, list[SplitImage]]:
    """Put each image of labels on a side, as `groundlabel split` does.

    Args:
        labels: Read once; failed images get no side.
        settings: How to split.
        classes: File that renames, merges and drops classes, as the export will; None leaves them.

    Returns:
        The sides by image id, and the images that were split.

    Raises:
        UserError: The class file is wrong, there are no images, or files are missing in which to look for
            near-duplicates.
    """
    classes_of = read_class_map(classes, labels.ontology) if classes else identity_map(labels.ontology)
    images = []
    for record in labels.records():
        if not isinstance(record, FailedImage):
            image = annotated_to_export(record) if isinstance(record, AnnotatedImage) else record
            new_ids = (classes_of.new_ids.get(found.class_id) for found in image.objects)
            names = tuple(classes_of.name_of(new_id) for new_id in new_ids if new_id is not None)
            file = labels.image_path(record)
            images.append(SplitImage(image.image_id, image.path, names, file, image.coco.video))
    alike = alike_in_run(labels.folder) if settings.near_duplicates is not None else []
    return split_images(images, settings, alike), images
