"""Whether a folder may become a run, or is one that may be continued; nothing is changed here."""

import errno
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.paths import stored_to_path
from pipeline.store.durable import TEMPORARY
from pipeline.store.fingerprint import default_row_options, describe_differences
from pipeline.store.lock import LOCK_NAME
from pipeline.store.log import LOG_FILE
from pipeline.store.manifest import MANIFEST_NAME
from pipeline.store.run import REVIEWED_FOLDER, RUN_FILE, SHARDS_FOLDER, TIMINGS_FOLDER, Run, is_run
from pipeline.store.status import STATUS_FILE

SUMMARY_FILE = "summary.json"
SUMMARY_TEXT = "summary.md"
FAILED_FILE = "failed.csv"
RETRY_FILE = "retry.json"
PREFILTER_FILE = "prefilter.json"
_NOTES = (PREFILTER_FILE, STATUS_FILE, LOG_FILE)
REPLACED_FILES = (MANIFEST_NAME, SUMMARY_FILE, SUMMARY_TEXT, FAILED_FILE, RETRY_FILE, *_NOTES, RUN_FILE)
"""What `--overwrite` removes besides shards; run.json is the last, so that half of it is still the old run."""
OUR_NAMES = (*REPLACED_FILES, LOCK_NAME, SHARDS_FOLDER, TIMINGS_FOLDER, REVIEWED_FOLDER)
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
        if strangers := [name for name in names if name not in OUR_NAMES]:
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
            "Use --continue-with-old to go on with the settings that it was made with, --overwrite to replace it, "
            "or another --output folder"
        )
    if run.images_root != root and not _moved(run, root):
        raise UserError(
            f"{output}: belongs to the images in {run.images_root}, and its first images are not in {root}; "
            "use --overwrite to replace it, or another --output folder"
        )
    return run


def _moved(run: Run, root: Path) -> bool:
    """Tell whether images of the run are under another root too; a run without rows fits any root."""
    paths = [entry.first_path for entry in run.first_entries(_ROOT_SAMPLES)]
    return not paths or any(os.path.lexists(root / stored_to_path(path)) for path in paths)


def settings_to_config(settings: Mapping[str, Any], others: AnnotateConfig) -> AnnotateConfig:
    """Return the options that a run was made with.

    Args:
        settings: Its run.json.
        others: Options that don't make rows (workers, device …) are taken from here.

    Raises:
        UserError: The run was made with an option that this version does not know.
    """
    parts = dict(settings["parts"])
    names = {option.name for option in fields(AnnotateConfig)}
    made = default_row_options() | {kind: parts.pop(kind)["name"] for kind in ("detector", "segmenter")}
    made |= {name: value for name, value in parts.items() if name in names and name != "classes"}
    made |= {name: value for name, value in settings["options"].items() if name in names and name != "device"}
    return others.merged(made)
