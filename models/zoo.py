"""The models that have a name, and how any model name becomes files.

A name is one of the zoo's, a hub id (`owner/name`), a local folder, or a segment-anything checkpoint (`.pth`).
Importing this module imports no torch: the loaders do when they are called.
"""

import contextlib
import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from models.interfaces import Detector, Segmenter
from models.ontology import Ontology
from models.precision import Precision

BUNDLED = Path(__file__).parent / "bundled"
Kind = Literal["detector", "segmenter"]
_WEIGHTS = ("*.safetensors", "*.pth", "*.bin")
_SHA256_BLOCK = 1 << 20


@dataclass(frozen=True)
class ZooEntry:
    """A model that has a name here.

    Attributes:
        name: What the user types.
        kind: What it does.
        parameters_m: Parameters, millions.
        size_mb: Size of the weights, megabytes.
        licence: Of the weights.
        note: One line for a person who chooses.
        hub_id: Where the hub has it, or None.
        checkpoint: The official file name of a segment-anything checkpoint, or None.
    """

    name: str
    kind: Kind
    parameters_m: float
    size_mb: int
    licence: str
    note: str
    hub_id: str | None = None
    checkpoint: str | None = None

    @property
    def bundled(self) -> bool:
        """Whether it ships with the package, as the folder of its name under `models/bundled/`."""
        return self.hub_id is None and self.checkpoint is None


_MM = "openmmlab-community/mm_grounding_dino"
_DINO = "IDEA-Research/grounding-dino"
_FREE = "Apache-2.0"
_ENTRIES = (
    ZooEntry("tiny", "detector", 2.7, 11, _FREE, "coloured shapes and blood cells, on any processor"),
    ZooEntry("grounding-dino-tiny", "detector", 172, 690, _FREE, "Swin-T", f"{_DINO}-tiny"),
    ZooEntry("grounding-dino-base", "detector", 233, 930, _FREE, "Swin-B", f"{_DINO}-base"),
    ZooEntry("mm-grounding-dino-tiny", "detector", 173, 690, _FREE, "Swin-T", f"{_MM}_tiny_o365v1_goldg_v3det"),
    ZooEntry("mm-grounding-dino-base", "detector", 233, 930, _FREE, "Swin-B", f"{_MM}_base_all"),
    ZooEntry("mm-grounding-dino-large", "detector", 343, 1370, _FREE, "Swin-L, the strongest", f"{_MM}_large_all"),
    ZooEntry("tiny-sam", "segmenter", 1.5, 3, _FREE, "small, on any processor"),
    ZooEntry("sam-vit-base", "segmenter", 94, 375, _FREE, "by transformers", "facebook/sam-vit-base"),
    ZooEntry("sam-vit-large", "segmenter", 312, 1250, _FREE, "by transformers", "facebook/sam-vit-large"),
    ZooEntry("sam-vit-huge", "segmenter", 641, 2560, _FREE, "by transformers", "facebook/sam-vit-huge"),
    ZooEntry("sam_vit_b", "segmenter", 94, 375, _FREE, "by segment-anything", checkpoint="sam_vit_b_01ec64.pth"),
    ZooEntry("sam_vit_l", "segmenter", 312, 1250, _FREE, "by segment-anything", checkpoint="sam_vit_l_0b3195.pth"),
    ZooEntry("sam_vit_h", "segmenter", 641, 2560, _FREE, "by segment-anything", checkpoint="sam_vit_h_4b8939.pth"),
)
ZOO: dict[str, ZooEntry] = {entry.name: entry for entry in _ENTRIES}


def checkpoint_folder() -> Path:
    """Return where segment-anything checkpoints are looked for: `~/.cache/groundlabel/checkpoints`."""
    return Path.home() / ".cache" / "groundlabel" / "checkpoints"


def resolve(name: str, kind: Kind | None = None) -> Path:
    """Find a model's files, downloading them if the hub can be reached.

    Args:
        name: Zoo name, hub id, local folder or `.pth` file.
        kind: What is wanted of it; None takes either.

    Returns:
        A folder of a model's files, or a `.pth` file.

    Raises:
        ValueError: No model has the name; the nearest names are offered.
        FileNotFoundError: It is known but neither here nor to be had; the message says which files to put where.
    """
    entry = ZOO.get(name)
    if entry is None:
        path = Path(name).expanduser()
        if path.exists():
            return path
        if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith(".pth"):
            raise ValueError(_unknown(name, kind))
        return _from_hub(name, name)
    if kind is not None and entry.kind != kind:
        raise ValueError(f"{name!r} is a {entry.kind}, not a {kind}; `groundlabel models` lists both")
    if entry.checkpoint is not None:
        return _checkpoint(name, entry.checkpoint)
    return BUNDLED / name if entry.hub_id is None else _from_hub(name, entry.hub_id)


def _unknown(name: str, kind: Kind | None) -> str:
    names = [entry.name for entry in _ENTRIES if kind in (None, entry.kind)]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"
    return f"no {kind or 'model'} is called {name!r} and there is no such file or folder; {hint}"


def is_at_hand(name: str) -> bool:
    """Return whether a zoo model's files are on this machine.

    Raises:
        ValueError: The zoo has no such name.
    """
    entry = ZOO.get(name)
    if entry is None:
        raise ValueError(_unknown(name, None))
    if entry.checkpoint is not None:
        return (checkpoint_folder() / entry.checkpoint).exists()
    if entry.hub_id is None:
        return any((BUNDLED / name).glob("*.safetensors"))
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(entry.hub_id, "model.safetensors"), str)


def _checkpoint(name: str, file_name: str) -> Path:
    path = checkpoint_folder() / file_name
    if path.exists():
        return path
    raise FileNotFoundError(
        f"segmenter {name!r} needs the checkpoint {file_name} of the segment-anything repository: "
        f"download it there and put it at {path}, or give its path"
    )


def _from_hub(name: str, source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.txt", "*.safetensors"]
    with contextlib.suppress(LocalEntryNotFoundError):
        return Path(snapshot_download(source, allow_patterns=patterns, local_files_only=True))
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except RepositoryNotFoundError as error:
        raise ValueError(f"the model hub has no {source!r}; check the name given as {name!r}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"model {name!r} is not on this machine and the hub cannot be reached. On a machine with network run "
            f"`hf download {source} --local-dir {Path(source).name}`, copy that folder (config.json, "
            "preprocessor_config.json, tokenizer files, model.safetensors) here, and instead of the name give its "
            f"path, ./{Path(source).name}"
        ) from error


def model_fingerprint(name: str) -> str:
    """Return the SHA-256 over a model's weight files, 64 hex digits: names and contents, sorted by name.

    Raises:
        ValueError: As `resolve`.
        FileNotFoundError: As `resolve`, or the folder holds no weights.
    """
    path = resolve(name)
    files = [path] if path.is_file() else sorted(file for pattern in _WEIGHTS for file in path.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{path} holds no weights (model.safetensors)")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            while block := content.read(_SHA256_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def pick_device(device: str = "auto") -> str:
    """Return the device to compute on: `auto` is the first accelerator that torch can use, else the processor."""
    if device != "auto":
        return device
    from models.devices import describe_devices

    return describe_devices()[0].name


class DetectorOptions(TypedDict, total=False):
    """How a detector is loaded; what is left out or None is as said.

    Attributes:
        box_threshold: Least score of a box whose class has no threshold of its own; else .35.
        text_threshold: Least probability of the best token of a box's prompt, likewise; else .25.
        size: Shorter side to which images are resized, pixels; else the model's own.
        prompts_per_pass: Most prompts a text pass; else the model's own, or as many as fit.
        prefilter: Classes that an image is asked for after a cheap first look; else all.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; else `auto`.
        precision: What most of it computes in (`models.precision`); else fp32.
        compile: Compile it for image sizes that repeat; else not.
    """

    box_threshold: float | None
    text_threshold: float | None
    size: int | None
    prompts_per_pass: int | None
    prefilter: int | None
    device: str
    precision: Precision
    compile: bool


def load_detector(name: str, ontology: Ontology, **options: Unpack[DetectorOptions]) -> Detector:
    """Load a detector for an ontology.

    Args:
        name: Zoo name, hub id or local folder.
        ontology: What to look for.
        options: See `DetectorOptions`.

    Raises:
        ValueError: The name is unknown, a number is out of range, or a prompt does not fit the model.
        FileNotFoundError: The files are not here and cannot be fetched.
    """
    return load_detectors(name, [ontology], **options)[0]


def load_detectors(name: str, ontologies: Sequence[Ontology], **options: Unpack[DetectorOptions]) -> list[Detector]:
    """Load one model and make a detector of it for each ontology; see `load_detector`."""
    path = resolve(name, "detector")
    from models.grounding_dino.detector import BOX_THRESHOLD, TEXT_THRESHOLD, DetectorSettings
    from models.grounding_dino.load import load_for_ontologies
    from models.grounding_dino.text_cache import TextCache, default_cache_folder

    box_threshold, text_threshold = options.get("box_threshold"), options.get("text_threshold")
    settings = DetectorSettings(
        BOX_THRESHOLD if box_threshold is None else box_threshold,
        TEXT_THRESHOLD if text_threshold is None else text_threshold,
        options.get("size"),
        options.get("prompts_per_pass"),
        prefilter=options.get("prefilter"),
        precision=options.get("precision", "fp32"),
        compile=options.get("compile", False),
    )
    device = pick_device(options.get("device", "auto"))
    cache = TextCache(default_cache_folder(), partial(model_fingerprint, str(path)))
    return [*load_for_ontologies(path, ontologies, settings, device, cache)]


def load_segmenter(
    name: str,
    device: str = "auto",
    boxes_per_chunk: int | None = None,
    multimask: bool = False,
    precision: Precision = "fp32",
) -> Segmenter:
    """Load a segmenter.

    Args:
        name: Zoo name, hub id, local folder or `.pth` checkpoint.
        device: As for `load_detector`.
        boxes_per_chunk: Most boxes decoded at once; None for 64, and for 16 on a CPU, where more take memory and no
            less time.
        multimask: Keep the best of three masks a box, by predicted IoU.
        precision: What the image encoder computes in (`models.precision`).

    Raises:
        ValueError: The name is unknown, a checkpoint is damaged, the model makes only one mask a box, or the device
            cannot compute in the precision.
        FileNotFoundError: The files are not here and cannot be fetched.
    """
    path = resolve(name, "segmenter")
    chosen = pick_device(device)
    at_once = boxes_per_chunk if boxes_per_chunk is not None else 16 if chosen == "cpu" else 64
    if path.is_file():
        from models.sam.original import load_original_sam

        return load_original_sam(path, chosen, at_once, multimask, precision)
    if _model_type(path) == "tiny-sam":
        if multimask:
            raise ValueError(f"multimask: the segmenter {name!r} makes one mask a box; use a SAM, as sam-vit-base")
        from models.sam.tiny import load_tiny_sam

        return load_tiny_sam(chosen, at_once, path, precision)
    from models.sam.hf import load_hf_sam

    return load_hf_sam(path, chosen, at_once, multimask, precision)


def _model_type(folder: Path) -> str | None:
    """Return what `config.json` calls the model, or None without a readable one."""
    config = folder / "config.json"
    if not config.is_file():
        return None
    content = json.loads(config.read_text(encoding="utf-8"))
    return content.get("model_type") if isinstance(content, dict) else None
