"""One run folder, opened for writing: the only place that changes it, besides the workers' shards."""

import csv
import errno
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from models.ontology import Ontology
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.paths import path_to_stored, stored_to_path
from pipeline.records import FailedImage, ImageTiming
from pipeline.store.fingerprint import describe_differences, parts_to_fingerprint
from pipeline.store.lock import LOCK_NAME, RunLock
from pipeline.store.manifest import MANIFEST_NAME, ManifestWriter, ShardEntry
from pipeline.store.run import RUN_FILE, SHARDS_FOLDER, TIMINGS_FOLDER, Run, is_run
from pipeline.store.shards import TEMPORARY, adopt_orphans, clear_leftovers, write_file, write_shard

SUMMARY_FILE = "summary.json"
FAILED_FILE = "failed.csv"
_FAILURES_IN_SUMMARY = 100
_ROOT_SAMPLES = 16


def explain_os_error(error: OSError, folder: Path) -> UserError:
    """Return the message for a run folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{folder}: no space left on the device; everything written so far is kept. "
            "Free some space and run the same command again to go on"
        )
    return UserError(f"{folder}: cannot be written ({error.strerror or error}); give another --output folder")


def check_output(output: Path, parts: Mapping[str, Any], root: Path, overwrite: bool) -> Run | None:
    """Look at the output folder without changing it.

    Args:
        output: The run folder; it need not exist.
        parts: What is asked for (`fingerprint_parts`).
        root: Where the images' paths start from.
        overwrite: A run of another kind is no error, as it will be replaced.

    Returns:
        The run that is to be continued, or None where a new one starts.

    Raises:
        UserError: The folder is something else, or a run with other prompts, models, options or images.
    """
    if not output.exists():
        return None
    if not output.is_dir():
        raise UserError(f"{output}: is a file; --output needs a folder")
    if not (output / RUN_FILE).exists():
        names = sorted(path.name for path in output.iterdir() if not path.name.startswith(TEMPORARY))
        if strangers := [name for name in names if name not in _OUR_NAMES]:
            raise UserError(
                f"{output}: is not empty and not a run (it has {', '.join(strangers[:3])}); "
                "give an empty or another --output folder"
            )
        if MANIFEST_NAME in names and not overwrite:
            raise UserError(
                f"{output}: has the shards of a run, but its {RUN_FILE} is gone; put that back, use --overwrite "
                "to replace the run, or give another --output folder"
            )
        return None
    if overwrite or not is_run(output):
        return None
    run = Run.open(output)
    if lines := describe_differences(run.settings.get("parts", {}), parts):
        listed = "\n  ".join(lines)
        raise UserError(
            f"{output}: belongs to a run made in another way:\n  {listed}\n"
            "Use the same settings to continue it, --overwrite to replace it, or another --output folder"
        )
    if run.images_root != root and not _moved(run, root):
        raise UserError(
            f"{output}: belongs to the images in {run.images_root}, and its first images are not in {root}; "
            "use --overwrite to replace it, or another --output folder"
        )
    return run


_OUR_NAMES = (RUN_FILE, MANIFEST_NAME, SUMMARY_FILE, FAILED_FILE, LOCK_NAME, SHARDS_FOLDER, TIMINGS_FOLDER)


def _moved(run: Run, root: Path) -> bool:
    """Tell whether images of the run are under another root too; a run without rows fits any root."""
    paths = [entry.first_path for entry in run.entries[:_ROOT_SAMPLES]]
    return not paths or any(os.path.lexists(root / stored_to_path(path)) for path in paths)


class RunWriter:
    """Holds a run folder and adds shards to it, as a context manager.

    Args:
        output: The run folder; it is made where it is missing.
        parts: What makes the rows (`fingerprint_parts`).
        ontology: Of the run.
        root: Where the images' paths start from.
        config: The options; `overwrite` removes a run that is there (only files of ours).

    Raises:
        UserError: The folder cannot be written, is something else, is in use, or belongs to another run.
    """

    def __init__(
        self, output: Path, parts: Mapping[str, Any], ontology: Ontology, root: Path, config: AnnotateConfig
    ) -> None:
        self.output = output
        self.fingerprint = parts_to_fingerprint(parts)
        self._ontology = ontology
        check_output(output, parts, root, config.overwrite)
        try:
            output.mkdir(parents=True, exist_ok=True)
            self.lock = RunLock(output)
        except OSError as error:
            raise explain_os_error(error, output) from error
        try:
            run = check_output(output, parts, root, config.overwrite)
            if run is None:
                self._clear()
            self._entries: list[ShardEntry] = list(run.entries) if run else []
            self._start(parts, root, config)
        except OSError as error:
            self.lock.release()
            raise explain_os_error(error, output) from error
        except BaseException:
            self.lock.release()
            raise

    def _start(self, parts: Mapping[str, Any], root: Path, config: AnnotateConfig) -> None:
        for name in (SHARDS_FOLDER, TIMINGS_FOLDER):
            (self.output / name).mkdir(exist_ok=True)
        clear_leftovers(self.output)
        settings = {
            "groundlabel": _version(),
            "fingerprint": self.fingerprint,
            "parts": parts,
            "images_root": path_to_stored(str(root)),
            "ontology": self._ontology.to_dict(),
            "options": {name: getattr(config, name) for name in ("detector", "segmenter", "pixel_limit", "device")},
        }
        write_file(self.output / RUN_FILE, json.dumps(settings, indent=2, allow_nan=False).encode())
        self._manifest = ManifestWriter(self.output)
        for entry in adopt_orphans(self.output, self._entries, self.fingerprint):
            self.add(entry)

    def _clear(self) -> None:
        """Remove the files of a run that is replaced; run.json goes last, so that half of it is still the old run."""
        for name in (SHARDS_FOLDER, TIMINGS_FOLDER):
            for path in (self.output / name).glob("*.parquet"):
                path.unlink()
        for name in (MANIFEST_NAME, SUMMARY_FILE, FAILED_FILE, RUN_FILE):
            (self.output / name).unlink(missing_ok=True)

    @property
    def entries(self) -> Sequence[ShardEntry]:
        """All shards of the run so far."""
        return tuple(self._entries)

    def done_ids(self) -> set[str]:
        """Return the ids of all images with a row, ok or failed."""
        return {image_id for entry in self._entries for image_id in entry.ids}

    def add(self, entry: ShardEntry) -> None:
        """Make a committed shard part of the run.

        Raises:
            UserError: The manifest cannot be written.
        """
        try:
            self._manifest.append(entry)
        except OSError as error:
            raise explain_os_error(error, self.output) from error
        self._entries.append(entry)

    def add_failure(self, failure: FailedImage) -> ShardEntry:
        """Commit one failed image from here, for a worker that cannot.

        Raises:
            UserError: The run cannot be written.
        """
        timing = ImageTiming(failure.image_id, 0, 0, 0, 0, os.uname().nodename, str(os.getpid()))
        try:
            entry = write_shard(self.output, [failure], [timing], self.fingerprint, {})
        except OSError as error:
            raise explain_os_error(error, self.output) from error
        self.add(entry)
        return entry

    def write_summary(self, seconds: float, computed: int) -> tuple[FailedImage, ...]:
        """Write summary.json, and failed.csv when images failed; a call that computed nothing leaves them as they are.

        Args:
            seconds: Wall-clock time of this call.
            computed: Images that it labelled or found to be failed.

        Returns:
            All failed images of the run, in the order of their paths.

        Raises:
            UserError: The files cannot be written.
        """
        run = Run.open(self.output)
        failed = tuple(run.failed())
        if computed or not (self.output / SUMMARY_FILE).exists():
            try:
                self._write_summary(run, failed, seconds, computed)
            except OSError as error:
                raise explain_os_error(error, self.output) from error
        return failed

    def _write_summary(self, run: Run, failed: Sequence[FailedImage], seconds: float, computed: int) -> None:
        counts = run.counts()
        summary = {
            "images": counts.total,
            "ok": counts.ok,
            "failed": counts.failed,
            "instances": counts.instances,
            "per_class": counts.per_class,
            "drops": _sum(entry.drops for entry in run.entries),
            "seconds_by_stage": {key: round(v, 3) for key, v in _sum(e.seconds for e in run.entries).items()},
            "last_call": {"images": computed, "seconds": round(seconds, 3)},
            "fingerprint": run.fingerprint,
            "failures": [
                {"image_id": row.image_id, "path": row.path, "reason": row.reason}
                for row in failed[:_FAILURES_IN_SUMMARY]
            ],
            "failures_listed_in": FAILED_FILE if failed else None,
        }
        text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
        write_file(self.output / SUMMARY_FILE, text.encode() + b"\n")
        if failed:
            write_file(self.output / FAILED_FILE, _failed_csv(failed))
        else:
            (self.output / FAILED_FILE).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the manifest and give the run free."""
        self._manifest.close()
        self.lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _version() -> str:
    try:
        return metadata.version("groundlabel")
    except metadata.PackageNotFoundError:
        return "from a checkout that is not installed"


def _sum(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items()))


def _failed_csv(failed: Sequence[FailedImage]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image_id", "path", "reason"])
    rows.writerows([row.image_id, row.path, row.reason] for row in failed)
    return text.getvalue().encode()
