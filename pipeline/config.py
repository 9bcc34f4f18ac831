"""The options of an annotate run: one frozen, checked object from a TOML file, the command line or Python.

The field names are the vocabulary everywhere: `box_threshold` in TOML and Python is `--box-threshold` on the command
line. Of two places that give an option, the command line wins over the file, and the file over the default.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

from models.precision import PRECISIONS, Precision
from pipeline.errors import UserError


@dataclass(frozen=True)
class FilterSettings:
    """What is kept; the defaults of all but `nms_iou` keep everything.

    Attributes:
        nms_iou: Of two boxes of a class with a higher IoU, the one with the lower score goes; 1 keeps all.
        min_box_area: Smallest area in square pixels.
        max_box_share: Largest share of the image's area in (0, 1]; 1 keeps also boxes of the whole image.
        agnostic_nms_iou: As `nms_iou`, for boxes of whatever class; 1 keeps all.
        max_box_area: Largest area in square pixels; None for no limit.
        min_box_share: Smallest share of the image's area.
        max_aspect: Most that the longer side may be over the shorter one; None for no limit.
        border_margin: Boxes nearer than this to the image's border go, pixels; None keeps them.
        max_contained: Largest share of a box that may lie in a stronger box of its class; 1 keeps all.
        top_k: Most boxes an image, the strongest; None for no limit.
        min_mask_fill: Least area of a mask over that of its box.
        max_mask_fill: Most of the same; None for no limit.
        min_mask_score: Least predicted IoU of a mask.
    """

    nms_iou: float = 0.7
    min_box_area: float = 0.0
    max_box_share: float = 1.0
    agnostic_nms_iou: float = 1.0
    max_box_area: float | None = None
    min_box_share: float = 0.0
    max_aspect: float | None = None
    border_margin: float | None = None
    max_contained: float = 1.0
    top_k: int | None = None
    min_mask_fill: float = 0.0
    max_mask_fill: float | None = None
    min_mask_score: float = 0.0


@dataclass(frozen=True)
class TileSettings:
    """How large images are cut into tiles.

    Attributes:
        side: Of a tile, pixels; images without a longer side are not cut. None chooses it by image and detector.
        overlap: Least share of a tile that it has in common with the next, 0 to .5.
        object_side: With `side` None: side in pixels of the smallest objects to be found.
    """

    side: int | None
    overlap: float = 0.2
    object_side: int = 32


_LEAST_TILE = 64


def _option(default: Any, help_text: str, **more: Any) -> Any:
    """Declare an option with its help text; `more` are limits: above, least, most, and metavar; number."""
    return field(default=default, metadata={"help": help_text, **more})


@dataclass(frozen=True)
class AnnotateConfig:
    """All options of `groundlabel annotate`.

    The help texts and limits are the fields' metadata: the command line, the checks and the README share them.

    Raises:
        UserError: A value has the wrong type or is out of its range; the message names the option.
    """

    images: str = _option(
        "", "folder, image, glob, .txt list or .parquet table of paths, or an address such as s3://bucket/photos"
    )
    classes: str = _option("", 'class names "a, b, c", or an ontology file (.yaml, .json)', metavar="NAMES|FILE")
    output: str = _option("", "run folder to write; an existing run of the same kind is continued", metavar="FOLDER")
    detector: str = _option("tiny", "zoo name (see `groundlabel models`), hub id or model folder", metavar="NAME")
    segmenter: str = _option("tiny-sam", "zoo name, hub id, model folder or .pth checkpoint", metavar="NAME")
    box_threshold: float = _option(0.35, "lowest detector score of a box", least=0, most=1)
    text_threshold: float = _option(0.25, "lowest score of a box's words", least=0, most=1)
    nms_iou: float = _option(0.7, "overlap at which the weaker box of a class goes; 1 keeps all", least=0, most=1)
    min_box_area: float = _option(0.0, "smallest box in square pixels", least=0)
    max_box_share: float = _option(1.0, "largest share of the image that a box may cover", above=0, most=1)
    agnostic_nms_iou: float = _option(
        1.0,
        "overlap at which the weaker of two boxes goes whatever their classes; 1 keeps all",
        least=0,
        most=1,
        metavar="IOU",
    )
    max_box_area: float | None = _option(None, "largest box in square pixels (no limit)", above=0)
    min_box_share: float = _option(0.0, "smallest share of the image that a box must cover", least=0, most=1)
    max_aspect: float | None = _option(None, "most that a box's longer side is over its shorter (no limit)", least=1)
    border_margin: float | None = _option(
        None, "drop boxes nearer than this many pixels to the image's border (keep them)", least=0
    )
    max_contained: float = _option(
        1.0, "largest share of a box inside a stronger one of its class; 1 keeps all", above=0, most=1
    )
    top_k: int | None = _option(None, "most boxes an image, the strongest (no limit)", least=1, metavar="N")
    mask: str = _option("segmenter", "what makes the masks: segmenter, or none for boxes alone")
    multimask: bool = _option(False, "let SAM draw three masks a box and keep the one it thinks best")
    mask_cleanup: float = _option(0.0, "fill holes and remove islands of a mask below this many pixels", least=0)
    largest_part: bool = _option(False, "keep only the largest connected part of a mask")
    min_mask_fill: float = _option(0.0, "least area of a mask over its box's; above 0 drops empty masks", least=0)
    max_mask_fill: float | None = _option(None, "most area of a mask over its box's (no limit)", above=0)
    min_mask_score: float = _option(0.0, "lowest mask score, the segmenter's estimate of the IoU", least=0, most=1)
    tile: str | None = _option(
        None,
        "side in pixels of tiles in which larger images are looked at too, or auto (no tiles)",
        metavar="N|auto",
        number=True,
    )
    tile_overlap: float = _option(0.2, "share of a tile that it has in common with the next", least=0, most=0.5)
    tile_object: int = _option(
        32, "side in pixels of the smallest objects that --tile auto should find", least=4, metavar="N"
    )
    size: int | None = _option(None, "short side in pixels to which the detector resizes (model's default)", least=16)
    prompts_per_pass: int | None = _option(None, "most prompts in one detector pass (as many as fit)", least=1)
    prefilter: str | None = _option(
        None,
        "ask an image only for the N classes that a cheap first look finds likeliest, or, below 1, for as many as keep "
        "this share of the boxes (all)",
        metavar="N|RECALL",
        number=True,
    )
    root: str | None = _option(None, "folder that the paths of a list start from (the list's)", metavar="FOLDER")
    pixel_limit: float = _option(100.0, "most megapixels of an image; larger ones fail", above=0)
    limit: int | None = _option(None, "label only the first N images", least=1, metavar="N")
    shard: str | None = _option(
        None, "label only part I of K of the images, chosen by their ids, such as 3/8; see merge", metavar="I/K"
    )
    image_timeout: float = _option(600.0, "seconds after which an image that hangs its worker is given up", above=0)
    remote_schemes: str = _option("https,s3,gs", "kinds of addresses from which images may be fetched", metavar="NAMES")
    allow_private_addresses: bool = _option(
        False, "fetch images also from hosts in private networks and on this machine"
    )
    device: str = _option("auto", "auto, cpu or cuda")
    precision: str = _option("auto", "what the models compute in: fp32, bf16 or fp16; auto is fp32", metavar="NAME")
    address: str | None = _option(
        None,
        "Ray cluster to join: auto, HOST:PORT or ray://HOST:PORT (a Ray of its own on this machine)",
        metavar="ADDRESS",
    )
    workers: int | None = _option(None, "worker processes (one a GPU; one on a CPU)", least=1, metavar="N")
    gpus_per_worker: float | None = _option(
        None, "GPUs of a worker, also a part of one, such as 0.5 (1, or an even share)", above=0
    )
    resources: str | None = _option(
        None, "what else of Ray's resources a worker takes, such as labeller=1,big=0.5", metavar="NAME=AMOUNT,…"
    )
    threads: int | None = _option(None, "CPU threads a worker (the cores shared among the workers)", least=1)
    compile: bool = _option(
        False, "compile the detector for image sizes that repeat: minutes at the start, then faster"
    )
    batch_size: str = _option(
        "8",
        "most images of equal size in one detector batch; auto: as many as the GPU's memory holds, 8 on a CPU",
        metavar="N|auto",
        number=True,
    )
    shard_size: int = _option(16, "most images in one unit of work, which ends as one file", least=1)
    profile: bool = _option(False, "print the share of time by stage over the workers, and what bounds the run")
    metrics_port: int | None = _option(
        None, "serve Prometheus metrics on 127.0.0.1 at this port while images are labelled", least=1, most=65535
    )
    mirror: str | None = _option(
        None, "keep a copy of the run at this address too, such as s3://bucket/run (no copy)", metavar="ADDRESS"
    )
    verify_content: bool = _option(
        False, "compare image files with their rows by content, also where size and time are as they were"
    )
    continue_with_old: bool = _option(
        False, "go on with the settings that the run in the output folder was made with, whatever is given here"
    )
    overwrite: bool = _option(False, "replace the run in the output folder, whatever made it")

    def __post_init__(self) -> None:
        for option in fields(self):
            object.__setattr__(self, option.name, _checked(option.name, getattr(self, option.name)))
        if self.mask not in ("segmenter", "none"):
            raise UserError(f"--mask {self.mask}: must be segmenter or none")
        if self.precision not in ("auto", *PRECISIONS):
            raise UserError(
                f"--precision {self.precision}: must be auto, {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}"
            )
        if self.precision == "fp16" and self.device == "cpu":
            raise UserError("--precision fp16 needs a GPU; use fp32 or bf16 with --device cpu")
        if self.tile not in (None, "auto") and not (self.tile.isdecimal() and int(self.tile) >= _LEAST_TILE):
            raise UserError(f"--tile {self.tile}: must be auto or a number of pixels, at least {_LEAST_TILE}")
        if self.batch_size != "auto" and not (self.batch_size.isdecimal() and int(self.batch_size) >= 1):
            raise UserError(f"--batch-size {self.batch_size}: must be auto or a number of images, at least 1")
        if self.prefilter is not None:
            _parse_prefilter(self.prefilter)
        if self.shard is not None:
            _parse_part(self.shard)
        if self.gpus_per_worker is not None and 1 < self.gpus_per_worker != int(self.gpus_per_worker):
            raise UserError(f"--gpus-per-worker {self.gpus_per_worker}: must be a whole number, or below 1")
        if self.overwrite and self.continue_with_old:
            raise UserError("--overwrite and --continue-with-old exclude each other")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(
                f"--device {self.device}: must be auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among several GPUs"
            )

    @property
    def filters(self) -> FilterSettings:
        """The options that filter boxes and masks."""
        return FilterSettings(**{option.name: getattr(self, option.name) for option in fields(FilterSettings)})

    @property
    def tiles(self) -> "TileSettings | None":
        """The options on tiles; None where images are only looked at whole."""
        if self.tile is None:
            return None
        return TileSettings(None if self.tile == "auto" else int(self.tile), self.tile_overlap, self.tile_object)

    @property
    def prefilter_classes(self) -> int | None:
        """How many classes the prefilter leaves; None where it leaves all, or as many as reach a recall."""
        return None if self.prefilter is None else _parse_prefilter(self.prefilter)[0]

    @property
    def prefilter_recall(self) -> float | None:
        """The recall that the prefilter is to reach; None where there is none, or the classes are given."""
        return None if self.prefilter is None else _parse_prefilter(self.prefilter)[1]

    @property
    def computing_precision(self) -> Precision:
        """What the models compute in, on whatever device: rows depend on it."""
        return "fp32" if self.precision == "auto" else cast(Precision, self.precision)

    @property
    def images_at_once(self) -> int:
        """Most images in a detector batch; with `auto` the default, from which more are tried."""
        default = str(AnnotateConfig.__dataclass_fields__["batch_size"].default)
        return int(default if self.batch_size == "auto" else self.batch_size)

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the images to label, from 0, and of how many."""
        return (0, 1) if self.shard is None else _parse_part(self.shard)

    @property
    def pixels(self) -> int:
        """The pixel limit in pixels."""
        return int(self.pixel_limit * 1e6)

    def merged(self, values: Mapping[str, Any]) -> Self:
        """Return a copy with some options replaced.

        Args:
            values: Option name -> value, with "_" or "-" in the names.

        Raises:
            UserError: An option is unknown or its value wrong.
        """
        clean = {name.replace("-", "_"): value for name, value in values.items()}
        known = [option.name for option in fields(self)]
        for name in clean:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise UserError(f"unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        paths = {name: os.fspath(value) for name, value in clean.items() if isinstance(value, os.PathLike)}
        return replace(self, **clean | paths)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a TOML file of options; what it leaves out keeps its default.

        Raises:
            UserError: There is no such file, it is not TOML, or an option is unknown or wrong; names the file.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: the config file cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise UserError(f"{path}: not valid TOML: {error}") from error
        try:
            return cls().merged(values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def to_toml(self) -> str:
        """Return all options as TOML that `from_toml` reads back; options without a value are comments."""
        lines = []
        for option in fields(self):
            value = getattr(self, option.name)
            lines.append(f"# {option.metadata['help']}")
            lines.append(f"# {option.name} =" if value is None else f"{option.name} = {_toml_value(value)}")
        return "\n".join(lines) + "\n"


def _parse_part(text: str) -> tuple[int, int]:
    """Return part I of K, "I/K" with I from 1, as (I - 1, K).

    Raises:
        UserError: It is something else.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--shard {text}: must be I/K with I from 1 to K, such as 3/8")
    return int(number) - 1, int(count)


def _parse_prefilter(text: str) -> tuple[int | None, float | None]:
    """Return a number of classes, or a recall; the other one is None.

    Raises:
        UserError: It is neither.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if text.isdecimal() and number >= 1:
        return int(text), None
    if not 0 < number < 1:
        raise UserError(f"--prefilter {text}: must be a number of classes, or a recall between 0 and 1, such as .98")
    return None, number


def _toml_value(value: str | bool | int | float) -> str:
    """Write a scalar; a JSON string is also a TOML basic string, once DEL is escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@cache
def option_type(name: str) -> tuple[type, bool]:
    """Return the scalar type of an option and whether it may be None."""
    types: dict[str, tuple[type, bool]] = {}
    for option in fields(AnnotateConfig):
        text = str(option.type)
        kind = next(kind for kind in (bool, int, float, str) if kind.__name__ in text)
        types[option.name] = (kind, "None" in text)
    return types[name]


def _checked(name: str, value: Any) -> Any:
    """Return an option's value in its type.

    Raises:
        UserError: It has another type or is out of range.
    """
    kind, optional = option_type(name)
    limits = AnnotateConfig.__dataclass_fields__[name].metadata
    flag = f"--{name.replace('_', '-')}"
    if value is None and optional:
        return None
    if limits.get("number") and type(value) in (int, float):
        value = str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{flag} {value!r}: must be of the type {kind.__name__}, not {type(value).__name__}")
    if isinstance(value, int | float) and kind is not bool:
        if not float("-inf") < value < float("inf"):
            raise UserError(f"{flag} {value}: must be a finite number")
        for word, wrong in (
            ("at least", "least" in limits and value < limits["least"]),
            ("at most", "most" in limits and value > limits["most"]),
            ("above", "above" in limits and value <= limits["above"]),
        ):
            if wrong:
                raise UserError(f"{flag} {value}: must be {word} {limits[word.removeprefix('at ')]}")
    return value
