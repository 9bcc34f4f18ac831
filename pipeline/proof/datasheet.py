"""The sheet that travels with an export: what made the labels, what is in them, and what is not known.

`write_datasheet` leaves DATASHEET.md for people, datasheet.json for programs and croissant.json (MLCommons). What
nobody knows is left out, not guessed: review counts stand there only where a review was counted, a model's revision
only where the run knows it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checksums import file_sha256
from pipeline.proof.croissant import croissant

if TYPE_CHECKING:
    from pipeline.export.folder import Written
    from pipeline.export.labels import Labels

SHEET_NAME, JSON_NAME, CROISSANT_NAME = "DATASHEET.md", "datasheet.json", "croissant.json"
_SUMMARY = "summary.json"
_SHOWN_FAILURES = 20
_MODELS = ("detector", "segmenter")
_NOT_OPTIONS = ("classes", "negatives", "labels_version")
_UNKNOWN_PROVENANCE = "unknown"
_KINDS_OF_WORK = {
    "model": "by models alone",
    "human": "by a person alone",
    "model+human": "by models, then changed by a person",
    _UNKNOWN_PROVENANCE: "the source does not tell",
}


@dataclass(frozen=True)
class ReviewCounts:
    """What a review did, in labels.

    Attributes:
        seen: A person looked at them.
        accepted: Seen and left as they were.
        changed: Seen and changed in class, box or mask.
        drawn: Added by a person.
    """

    seen: int
    accepted: int
    changed: int
    drawn: int


def write_datasheet(
    folder: Path,
    labels: "Labels",
    written: "Written",
    format_name: str,
    licence: str = "",
    review: ReviewCounts | None = None,
) -> None:
    """Write the sheet in its three forms into the folder of an export.

    Args:
        folder: Holds the files of the export.
        labels: What was exported.
        written: What the export holds and what was left out.
        format_name: Of the export.
        licence: Of the images, as the user gave it; empty where it was not given.
        review: None where no review was counted.
    """
    facts = datasheet_values(labels, written, format_name, licence, review)
    data_files = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    data_folders = sorted(path for path in folder.iterdir() if path.is_dir())
    digests = {path.name: file_sha256(path) for path in data_files}
    written.sha256.update(digests)
    (folder / SHEET_NAME).write_text(render_markdown(facts), encoding="utf-8")
    _write_json(folder / JSON_NAME, facts)
    _write_json(folder / CROISSANT_NAME, croissant(facts, digests, data_folders))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def datasheet_values(
    labels: "Labels",
    written: "Written",
    format_name: str,
    licence: str,
    review: ReviewCounts | None,
) -> dict[str, Any]:
    """Return all that is known, as JSON-able values; keys of what is not known are left out."""
    settings = labels.settings
    parts: Mapping[str, Any] = settings.get("parts") or settings.get("made_with") or {}
    values: dict[str, Any] = {
        "labels_from": labels.folder.resolve().name,
        "format": format_name,
        "groundlabel": str(settings.get("groundlabel") or settings.get("version") or ""),
        "fingerprint": labels.fingerprint,
        "images": written.images,
        "images_without_objects": written.empty_images,
        "objects": written.annotations,
        "classes": _classes(written),
        "provenance": dict(sorted(written.provenance.items())),
    }
    if any(written.image_counts):
        values["sides"] = {
            side: {"images": count, "objects": dict(sorted(written.class_counts.get(side, {}).items()))}
            for side, count in sorted(written.image_counts.items())
        }
    values |= _made_with(parts)
    if review is not None:
        values["review"] = asdict(review)
    values["left_out"] = _left_out(labels, written)
    values["failed_images"] = [{"path": path, "reason": reason} for path, reason in written.failed]
    if licence:
        values["licence"] = licence
    if written.licences:
        values["image_licences"] = dict(sorted(written.licences.items()))
    return values


def _classes(written: "Written") -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    for side in written.class_counts.values():
        for name, count in side.items():
            counts[name] = counts.get(name, 0) + count
    rows = []
    for name, count in sorted(counts.items()):
        row: dict[str, Any] = {"name": name, "objects": count}
        if (size := written.box_sizes.get(name)) is not None:
            width, height, share = size.spreads()
            row |= {"box_width_px": width.rounded(1), "box_height_px": height.rounded(1)}
            row["box_share_of_image"] = share.rounded(5)
        rows.append(row)
    return rows


def _made_with(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return models, prompts and options of the run, where the labels come from one."""
    if not parts:
        return {}
    models = [{"role": role, **parts[role]} for role in _MODELS if isinstance(parts.get(role), Mapping)]
    prompts = {spec["name"]: list(spec.get("prompts", ())) for spec in parts.get("classes", ())}
    own = {
        spec["name"]: given
        for spec in parts.get("classes", ())
        if (given := {key: spec[key] for key in ("box_threshold", "text_threshold") if spec.get(key) is not None})
    }
    options = {key: value for key, value in parts.items() if key not in (*_MODELS, *_NOT_OPTIONS)}
    made: dict[str, Any] = {"models": models, "prompts": prompts, "options": options}
    if own:
        made["thresholds_of_classes"] = own
    if parts.get("negatives"):
        made["negative_prompts"] = list(parts["negatives"])
    return made


def _left_out(labels: "Labels", written: "Written") -> dict[str, Any]:
    """Return what the run's filters and the export dropped."""
    left_out: dict[str, Any] = {
        "images_that_failed": len(written.failed),
        "images_without_objects": written.dropped_empty,
        "images_without_a_side": written.unassigned,
        "objects_with_an_empty_mask": len(written.empty_masks),
        "objects_by_class": dict(sorted(written.dropped_classes.items())),
        "objects_by_reason": dict(sorted(written.not_expressible.items())),
    }
    try:
        summary = json.loads((labels.folder / _SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Labels without a summary (a COCO file, a run that was interrupted): what was dropped is not known.
        return left_out
    if isinstance(summary, Mapping) and isinstance(summary.get("drops"), Mapping):
        left_out["boxes_dropped_by_filters"] = dict(summary["drops"])
    return left_out


def render_markdown(facts: Mapping[str, Any]) -> str:
    """Return the sheet for people, from `datasheet_values`."""
    return "\n".join([*_head(facts), *_content(facts), *_origin(facts), *_gaps(facts)]) + "\n"


def _head(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"# Datasheet of {facts['labels_from']}"
    yield ""
    made = f"groundlabel {facts['groundlabel']}" if facts["groundlabel"] else "groundlabel"
    yield f"Exported by {made} as {facts['format']}; fingerprint of the labels `{facts['fingerprint']}`."
    yield f"The same facts for programs: `{JSON_NAME}`, `{CROISSANT_NAME}`."
    yield ""


def _content(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "## What is in it"
    yield ""
    empty = facts["images_without_objects"]
    yield f"{facts['images']} images, {empty} of them without objects; {facts['objects']} objects."
    yield ""
    rows = []
    for row in facts["classes"]:
        sizes = [_three(row.get(key)) for key in ("box_width_px", "box_height_px")]
        share = row.get("box_share_of_image")
        percent = {key: round(100 * value, 2) for key, value in share.items()} if share else None
        rows.append((row["name"], str(row["objects"]), *sizes, _three(percent)))
    head = ("class", "objects", "box width px", "box height px", "% of the image")
    yield from _table(head, rows)
    if any("box_width_px" in row for row in facts["classes"]):
        yield "Sizes are least, median (within 1.5 %) and most."
        yield ""
    if "sides" in facts:
        yield from _table(
            ("side", "images", "objects"),
            [(side, str(one["images"]), str(sum(one["objects"].values()))) for side, one in facts["sides"].items()],
        )
    yield "## Who made the labels"
    yield ""
    known = facts["provenance"].items()
    yield from _table(
        ("provenance", "objects", "meaning"),
        [(kind, str(count), _KINDS_OF_WORK.get(kind, "")) for kind, count in known],
    )
    if "review" in facts:
        one = facts["review"]
        yield (
            f"A person saw {one['seen']} labels, accepted {one['accepted']}, changed {one['changed']} and drew "
            f"{one['drawn']}."
        )
    else:
        yield "No review was counted for these labels."
    yield ""


def _origin(facts: Mapping[str, Any]) -> Iterator[str]:
    if "models" in facts:
        yield "## How they were made"
        yield ""
        keys = ("name", "revision", "weights")
        rows = [(one["role"], *(str(one.get(key, "not known")) for key in keys)) for one in facts["models"]]
        yield from _table(("model", "name", "revision", "hash of the weights"), rows)
        yield from _table(("class", "prompts"), [(name, ", ".join(texts)) for name, texts in facts["prompts"].items()])
        if "negative_prompts" in facts:
            yield f"Negative prompts, whose boxes were dropped: {', '.join(facts['negative_prompts'])}."
            yield ""
        rows = [(key.replace("_", " "), _shown(value)) for key, value in facts["options"].items()]
        for name, given in facts.get("thresholds_of_classes", {}).items():
            rows += [(f"{key.replace('_', ' ')} of {name}", _shown(value)) for key, value in given.items()]
        yield from _table(("option", "value"), rows)
    yield "## Licence of the images"
    yield ""
    yield facts.get("licence") or "Not given."
    for name, count in facts.get("image_licences", {}).items():
        yield f"- {count} images: {name}"
    yield ""


def _gaps(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "## What is not in it"
    yield ""
    rows = []
    for key, value in facts["left_out"].items():
        if isinstance(value, Mapping):
            rows += [(f"{key.replace('_', ' ')}: {reason}", str(count)) for reason, count in value.items()]
        else:
            rows.append((key.replace("_", " "), str(value)))
    yield from _table(("left out", "how many"), rows)
    failed = facts["failed_images"]
    for one in failed[:_SHOWN_FAILURES]:
        yield f"- `{_one_line(one['path'])}`: {_one_line(one['reason'])}"
    if len(failed) > _SHOWN_FAILURES:
        yield f"- and {len(failed) - _SHOWN_FAILURES} more, in `{JSON_NAME}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if not rows:
        return
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(_one_line(cell).replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shown(value: Any) -> str:
    return "the default" if value is None else str(value)


def _three(values: Mapping[str, float] | None) -> str:
    return " · ".join(f"{values[key]:g}" for key in ("min", "median", "max")) if values else ""
