"""Trying the failed images of a run again, with the settings that it was made with."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.paths import path_to_image_id, stored_to_path
from pipeline.run import AnnotateResult, Job, label, make_parts
from pipeline.sources import ImageSource
from pipeline.store.durable import write_file
from pipeline.store.index import ids_to_numbers
from pipeline.store.output import RETRY_FILE, settings_to_config
from pipeline.store.run import Run
from pipeline.store.writer import RunWriter


def retry(folder: str | Path, config: AnnotateConfig | None = None, *, progress: bool = True) -> AnnotateResult:
    """Label the failed images of a run again; a call that was cut off goes on, and so does `annotate`.

    Args:
        folder: The run.
        config: Options on where and how fast to run; those that make rows are the run's.
        progress: Show progress on stderr.

    Returns:
        As of `annotate`; `computed` counts the images tried.

    Raises:
        UserError: There is no run, its models are gone or have changed, or it cannot be written.
    """
    start = time.monotonic()
    run = Run.open(folder)
    options = settings_to_config(run.settings, config or AnnotateConfig())
    ontology, parts = make_parts(options, run.ontology)
    output = run.folder.absolute()
    with RunWriter(output, parts, ontology, run.images_root, options) as writer:
        failed = [record.path for record in run.failed()]
        paths = list(dict.fromkeys([*_left_from_before(output), *failed]))
        if not paths:
            outcome = writer.finish(0, 0)
            counts, seconds = outcome.counts, time.monotonic() - start
            return AnnotateResult(output, counts.total, (), 0, 0, counts.instances, seconds, False)
        # Written before the rows go: whatever dies in between, the next call knows what was to be tried.
        write_file(output / RETRY_FILE, json.dumps(paths).encode())
        writer.drop_rows(ids_to_numbers(path_to_image_id(stored_to_path(path)) for path in failed))
        source = _source(run.images_root, paths)
        result = label(Job(options, ontology, source, parts, output, whole=False), writer, start, progress)
        if not result.interrupted:
            (output / RETRY_FILE).unlink(missing_ok=True)
    return result


def _left_from_before(output: Path) -> list[str]:
    """Return the stored paths that a call that was cut off wanted to try."""
    path = output / RETRY_FILE
    if not path.exists():
        return []
    try:
        paths: list[str] = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); remove it and annotate again") from error
    return paths


def _source(root: Path, stored: Sequence[str]) -> ImageSource:
    return ImageSource(root, "the failed images", map(stored_to_path, stored), unique=True, may_be_empty=True)
