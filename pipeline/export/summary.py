"""What an export holds and what it left out, in lines for a person."""

from pipeline.export.folder import MARKER, Written


def describe(written: Written) -> list[str]:
    """Return the lines; the first counts images and annotations, each other one is only there where it has a number."""
    where = f"(listed in {written.output}/{MARKER})"
    lines = [f"{written.output}: {written.images} images, {written.annotations} annotations"]
    if any(written.image_counts) and written.images:
        lines.append(", ".join(f"{side}: {count} images" for side, count in sorted(written.image_counts.items())))
    lines += written.notes
    if written.renamed:
        lines.append(f"renamed: {len(written.renamed)} images that would share a label file {where}")
    left_out = [
        (len(written.failed), f"images that failed in the run {where}"),
        (len(written.empty_masks), f"objects without a mask {where}"),
        (written.dropped_empty, "images without objects (--empty)"),
        (written.unassigned, "images without a side"),
        (written.dropped_classes.total(), f"objects of classes that --classes does not name {where}"),
        *((count, f"{reason}, which the format cannot express") for reason, count in written.not_expressible.items()),
    ]
    return lines + [f"left out: {count} {what}" for count, what in left_out if count]
