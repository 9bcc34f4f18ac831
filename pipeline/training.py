"""Fine-tuning as a whole: check the data, split it, train in this process or in several, keep all in one folder."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.training.finetune_config import FinetuneConfig
from pipeline.errors import UserError
from pipeline.images import read_image
from pipeline.training_data import TrainingData, read_training_data, refuse_problems
from pipeline.training_split import coco_text, count_boxes, split_by_hash

if TYPE_CHECKING:
    from models.training.finetune_plan import FinetuneResult

TRAINING_FILE = "training.json"
"""Says what a training folder was made of; its presence marks a folder as ours."""
TRAIN_FILE = "train.json"
VALIDATION_FILE = "val.json"
_FILES = (
    *(TRAIN_FILE, VALIDATION_FILE, "plan.json", "checkpoint.pt", "log.csv", "evaluation.csv", "curves.png"),
    *("result.json", TRAINING_FILE),
)
_FOLDERS = ("model", "model.part", "model.old", "ray")


def train(
    data: str | Path,
    detector: str,
    output: str | Path,
    config: FinetuneConfig | None = None,
    *,
    images: str | Path | None = None,
    val: str | Path | None = None,
    workers: int = 1,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    skip_bad: bool = False,
) -> "FinetuneResult":
    """Fine-tune a detector on labelled images.

    Args:
        data: COCO JSON, export folder or run folder.
        detector: Zoo name, hub id or local folder.
        output: The folder of the training; the finished model is its `model/`.
        config: How to train; None for the defaults.
        images: Folder of the images of a COCO JSON; None looks beside it.
        val: Labels to judge by, as `data`; None keeps back a fifth of the images.
        workers: Processes that train together (data parallel, by Ray Train).
        device: As for `load_detector`; several workers take a GPU each unless it is `cpu`.
        resume: Go on with the training in `output`.
        overwrite: Replace the training in `output`.
        skip_bad: Leave out what is wrong in the data instead of refusing it.

    Returns:
        What was reached.

    Raises:
        UserError: The data, the output or the options are wrong.
        ValueError: The detector is not known, or does not fit the options.
        FileNotFoundError: The detector's files are not here.
    """
    from models.zoo import pick_device, resolve

    if workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}")
    config = config or FinetuneConfig()
    folder, output = resolve(detector, "detector"), Path(output)
    _check_output(output, resume, overwrite)
    found = read_training_data(data, images)
    refuse_problems(found, skip_bad)
    judged = read_training_data(val, images if _same_kind(data, val) else None) if val is not None else None
    if judged is not None:
        refuse_problems(judged, skip_bad)
    texts = _split(found, judged, config.seed)
    for note in (*found.notes, *(judged.notes if judged is not None else ())):
        print(note)
    _prepare_output(output, texts, {"data": str(data), "detector": detector, "workers": workers}, resume, overwrite)
    settings = {"detector": str(folder), "output": str(output.absolute()), "config": asdict(config), "resume": resume}
    chosen = pick_device(device)
    if workers == 1:
        train_worker(settings, chosen)
    else:
        from pipeline.engine.distributed import run_on_workers

        print(
            f"training in {workers} processes; watch {output / 'log.csv'} and {output / 'evaluation.csv'}", flush=True
        )
        run_on_workers(train_worker, settings, workers, chosen.startswith("cuda"), output / "ray")
    from models.training.finetune_plan import FinetuneResult

    return FinetuneResult.read(output / "result.json")


def _same_kind(data: str | Path, val: str | Path) -> bool:
    """Tell whether `--images` speaks of the validation split too: both are COCO files of one folder."""
    return Path(data).is_file() and Path(val).is_file()


def _split(found: TrainingData, judged: TrainingData | None, seed: int) -> dict[str, str]:
    """Return the two COCO files' texts; classes without a box to learn from are left out and noted.

    Raises:
        UserError: There is nothing to learn from, or to judge by.
    """
    if not count_boxes(found.files):
        raise UserError(f"{found.origin}: no annotation to learn from in {len(found.files)} images")
    learned, held_back = split_by_hash(found.files, seed) if judged is None else (found.files, judged.files)
    counts = count_boxes(learned)
    names = [name for name in found.names if counts[name]]
    if without := [name for name in found.names if not counts[name]]:
        found.notes.append(f"left out: classes without an annotation to learn from: {', '.join(without)}")
    judged_counts = count_boxes(held_back)
    if not names or not any(judged_counts[name] for name in names):
        origin = judged.origin if judged is not None else "the fifth of the images that is kept back"
        learnable = ", ".join(names) or "what is left"
        raise UserError(f"{origin}: no annotation of {learnable} to judge by; give other labels with --val")
    if strange := sorted(set(judged_counts) - set(names)):
        found.notes.append(f"not judged: classes that are not learned: {', '.join(strange)}")
    return {TRAIN_FILE: coco_text(learned, names), VALIDATION_FILE: coco_text(held_back, names)}


def _check_output(output: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that is somebody else's, or a training that is neither to be resumed nor replaced."""
    if resume and overwrite:
        raise UserError("give --resume or --overwrite, not both")
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"{output} is a file; --output must be a folder")
    if (output / TRAINING_FILE).is_file():
        if not resume and not overwrite:
            raise UserError(f"{output} holds a training already; go on with --resume, or start anew with --overwrite")
    elif any(output.iterdir()):
        raise UserError(f"{output} is not empty and no training; choose another --output")


def _prepare_output(
    output: Path, texts: Mapping[str, str], settings: dict[str, Any], resume: bool, overwrite: bool
) -> None:
    """Write the data files, or see that those of the training to resume are the same."""
    marker = output / TRAINING_FILE
    settings = settings | {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    if resume and marker.is_file():
        begun = json.loads(marker.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if begun.get(name) != value and name != "data":
                what = "other data" if name in texts else f"--{name} {begun.get(name)}"
                raise UserError(f"{output}: this training was begun with {what}; start anew with --overwrite")
        return
    if overwrite:
        for name in _FILES:
            (output / name).unlink(missing_ok=True)
        for name in _FOLDERS:
            shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    marker.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def train_worker(settings: Mapping[str, Any], device: str) -> None:
    """Train in this process, alone or as one of several that torch.distributed has joined; leaves `result.json`.

    Args:
        settings: Plain values, so that this can be another machine's process.
        device: Where to train.
    """
    from models.training.finetune import finetune

    output = Path(settings["output"])
    finetune(
        Path(settings["detector"]),
        output / TRAIN_FILE,
        output / VALIDATION_FILE,
        output,
        FinetuneConfig(**settings["config"]),
        device=device,
        resume=settings["resume"],
        read=read_image,
    )
