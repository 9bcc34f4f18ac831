"""A split of the labels that are about to be exported, by `pipeline.splits`."""

from pipeline.export.labels import Labels
from pipeline.export.objects import annotated_to_export
from pipeline.records import AnnotatedImage, FailedImage
from pipeline.splits import Split, SplitImage, SplitSettings, split_images


def split_labels(labels: Labels, settings: SplitSettings) -> tuple[Split, list[SplitImage]]:
    """Put each image of labels on a side, as `groundlabel split` does.

    Args:
        labels: Read once; failed images get no side.
        settings: How to split.

    Returns:
        The sides by image id, and the images that were split.

    Raises:
        UserError: There are no images, or near-duplicates are to be found and image files are missing.
    """
    images = []
    for record in labels.records():
        if not isinstance(record, FailedImage):
            image = annotated_to_export(record) if isinstance(record, AnnotatedImage) else record
            classes = tuple(found.class_name for found in image.objects)
            images.append(SplitImage(image.image_id, image.path, classes, labels.image_path(record)))
    return split_images(images, settings), images
