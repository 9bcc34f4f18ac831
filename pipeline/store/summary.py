"""What a run came to: summary.json for programs, summary.md for people, failed.csv with each failed image."""

import csv
import heapq
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.records import FailedImage
from pipeline.store.durable import write_file
from pipeline.store.manifest import RunCounts, ShardEntry, manifest_mark, read_manifest
from pipeline.store.output import FAILED_FILE, SUMMARY_FILE, SUMMARY_TEXT
from pipeline.store.run import Run
from pipeline.store.shards import read_shard, read_timings

SLOWEST = 10
_FAILURES_IN_SUMMARY = 100
_REASON_LENGTH = 120
_IMAGE_STAGES = ("decode", "detect", "segment", "encode")
_STAGES = (*_IMAGE_STAGES, "write")


def reason_kind(reason: str) -> str:
    """Return a reason without its numbers and cut to a line, so that reasons of a kind can be counted."""
    return re.sub(r"\d+(?:\.\d+)?", "…", reason)[:_REASON_LENGTH]


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        counts: Images and objects.
        failed: All failed images, in the order of their paths.
    """

    counts: RunCounts
    failed: tuple[FailedImage, ...]


@dataclass
class _Sums:
    """What is added up over the shards of a run."""

    ok: int = 0
    failed: int = 0
    instances: int = 0
    per_class: Counter[str] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    slow: list[tuple[float, str]] = field(default_factory=list)
    with_failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, entry: ShardEntry) -> None:
        self.ok += entry.ok_count
        self.failed += entry.failed_count
        self.instances += entry.instances
        self.per_class.update(entry.per_class)
        self.drops.update(entry.drops)
        self.seconds.update(entry.seconds)
        _keep_slowest(self.slow, entry)
        if entry.failed:
            self.with_failures.append((entry.first_path, entry.shard))


def write_summary(folder: Path, seconds: float, computed: int, profile: Mapping[str, Any] | None = None) -> Outcome:
    """Write summary.json and summary.md, and failed.csv when images failed.

    Args:
        folder: The run.
        seconds: Wall-clock time of this call.
        computed: Images that it labelled or found to be failed; with 0 files that are there stay as they are.
        profile: Where the workers' time went in this call (`pipeline.engine.profile`); None where it is not known.

    Returns:
        What the run came to.

    Raises:
        UserError: A shard with failed rows cannot be read.
        OSError: The disk is full or the folder cannot be written.
    """
    if not computed and (known := _read_outcome(folder)) is not None:
        return known
    run = Run.open(folder)
    sums = _Sums()
    for entry in read_manifest(folder):
        sums.add(entry)
    failed = tuple(record for record in run.merge(sums.with_failures) if isinstance(record, FailedImage))
    names = [spec.name for spec in run.ontology.classes]
    per_class = {name: sums.per_class[name] for name in names}
    counts = RunCounts(sums.ok + sums.failed, sums.ok, sums.failed, sums.instances, per_class)
    if not computed and (folder / SUMMARY_FILE).exists() and _note_mark(folder, counts):
        return Outcome(counts, failed)
    summary = _summarise(run, sums, counts, failed)
    summary["last_call"] = {"images": computed, "seconds": round(seconds, 3), "profile": profile}
    write_file(folder / SUMMARY_FILE, _summary_text(summary))
    write_file(folder / SUMMARY_TEXT, summary_to_markdown(summary).encode())
    if failed:
        write_file(folder / FAILED_FILE, _failed_csv(failed))
    else:
        (folder / FAILED_FILE).unlink(missing_ok=True)
    return Outcome(counts, failed)


def _summarise(run: Run, sums: _Sums, counts: RunCounts, failed: Sequence[FailedImage]) -> dict[str, Any]:
    return {
        "images": counts.total,
        "ok": counts.ok,
        "failed": counts.failed,
        "instances": counts.instances,
        "per_class": counts.per_class,
        "drops": dict(sorted(sums.drops.items())),
        "seconds_by_stage": {stage: round(float(sums.seconds[stage]), 3) for stage in _STAGES if stage in sums.seconds},
        "slowest": [{"path": path, "seconds": taken} for taken, path in _slowest_images(run, sums.slow)],
        "fingerprint": run.fingerprint,
        "manifest": manifest_mark(run.folder),
        "failed_by_reason": dict(Counter(reason_kind(row.reason) for row in failed).most_common()),
        "failures": [
            {"image_id": row.image_id, "path": row.path, "reason": row.reason} for row in failed[:_FAILURES_IN_SUMMARY]
        ],
        "failures_listed_in": FAILED_FILE if failed else None,
    }


def _read_outcome(folder: Path) -> Outcome | None:
    """Return what the summary says, where it is of the manifest as it is; else None."""
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_bytes())
        if summary["manifest"] != manifest_mark(folder):
            return None
        images, ok, bad, found = (int(summary[name]) for name in ("images", "ok", "failed", "instances"))
        counts = RunCounts(images, ok, bad, found, dict(summary["per_class"]))
        failed = _read_failed(folder / FAILED_FILE) if counts.failed else ()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Outcome(counts, failed) if len(failed) == counts.failed else None


def _read_failed(path: Path) -> tuple[FailedImage, ...]:
    with path.open(encoding="utf-8", newline="") as stream:
        return tuple(FailedImage(row["image_id"], row["path"], row["reason"]) for row in csv.DictReader(stream))


def _note_mark(folder: Path, counts: RunCounts) -> bool:
    """Let the summary be of the manifest as it is, where its counts are; returns whether they are."""
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_bytes())
    except ValueError:
        return False
    if [summary.get(name) for name in ("images", "failed", "instances")] != [
        counts.total,
        counts.failed,
        counts.instances,
    ]:
        return False
    summary["manifest"] = manifest_mark(folder)
    write_file(folder / SUMMARY_FILE, _summary_text(summary))
    return True


def _summary_text(summary: Mapping[str, Any]) -> bytes:
    return json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _keep_slowest(slow: list[tuple[float, str]], entry: ShardEntry) -> None:
    item = (entry.slowest, entry.shard)
    if len(slow) < SLOWEST:
        heapq.heappush(slow, item)
    elif item > slow[0]:
        heapq.heapreplace(slow, item)


def _slowest_images(run: Run, slow: Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return (seconds, path) of the slowest images: each is in one of the shards with the slowest slowest row."""
    found = []
    for _, shard in slow:
        times = read_timings(run.folder, shard)
        if times is None:
            continue
        table = read_shard(run.folder, shard)
        paths = dict(zip(table.column("image_id").to_pylist(), table.column("path").to_pylist(), strict=True))
        for row in times.to_pylist():
            taken = round(sum(row[f"seconds_{stage}"] for stage in _IMAGE_STAGES), 3)
            found.append((taken, paths[row["image_id"]]))
    return sorted(found, key=lambda item: (-item[0], item[1]))[:SLOWEST]


def summary_to_markdown(summary: Mapping[str, Any]) -> str:
    """Return a summary as Markdown tables."""
    lines = [
        "# Summary of the run",
        "",
        *_table(
            ("images", "ok", "failed", "objects"),
            [(summary["images"], summary["ok"], summary["failed"], summary["instances"])],
        ),
        "",
        f"Fingerprint `{summary['fingerprint']}`.",
    ]
    for title, heads, rows in (
        ("Objects by class", ("class", "objects"), summary["per_class"].items()),
        ("Boxes dropped by filters", ("reason", "boxes"), summary["drops"].items()),
        ("Failed images by reason", ("reason", "images"), summary["failed_by_reason"].items()),
        ("Seconds by stage, all workers", ("stage", "seconds"), summary["seconds_by_stage"].items()),
        ("Slowest images", ("image", "seconds"), [(row["path"], row["seconds"]) for row in summary["slowest"]]),
    ):
        listed = list(rows)
        if listed:
            lines += ["", f"## {title}", "", *_table(heads, listed)]
    if profile := summary.get("last_call", {}).get("profile"):
        shares = [(name, f"{share:.1%}") for name, share in profile["shares"].items()]
        beside = [(f"{name} (in other threads)", f"{share:.1%}") for name, share in profile["beside"].items()]
        lines += ["", "## Where the workers' time went in the last call", ""]
        lines += [*_table(("what", "share"), shares + beside), "", profile["bound"]]
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    def row(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"

    return [row(heads), row(["---", *["---:"] * (len(heads) - 1)]), *(row(cells) for cells in rows)]


def _failed_csv(failed: Sequence[FailedImage]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image_id", "path", "reason"])
    rows.writerows([row.image_id, row.path, row.reason] for row in failed)
    return text.getvalue().encode()
