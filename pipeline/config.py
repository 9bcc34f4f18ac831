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
from pathlib import Path
from typing import Any, Self

from pipeline.errors import UserError


@dataclass(frozen=True)
class FilterSettings:
    """What is kept.

    Attributes:
        nms_iou: Of two boxes of a class with a higher IoU, the one with the lower score goes; 1 keeps all.
        class_agnostic: Compare boxes of all classes with each other.
        min_box_area: Smallest area in square pixels.
        max_box_share: Largest share of the image's area in (0, 1]; 1 keeps also boxes of the whole image.
    """

    nms_iou: float = 0.7
    class_agnostic: bool = False
    min_box_area: float = 0.0
    max_box_share: float = 1.0


def _option(default: Any, help_text: str, **more: Any) -> Any:
    """Declare an option with its help text; `more` are limits: above, below, least, most, choices, metavar."""
    return field(default=default, metadata={"help": help_text, **more})


@dataclass(frozen=True)
class AnnotateConfig:
    """All options of `groundlabel annotate`.

    The help texts and limits are the fields' metadata: the command line, the checks and the README share them.

    Raises:
        UserError: A value has the wrong type or is out of its range; the message names the option.
    """

    images: str = _option("", "folder, image, glob, .txt list or .parquet table of paths")
    classes: str = _option("", 'class names "a, b, c", or an ontology file (.yaml, .json)', metavar="NAMES|FILE")
    output: str = _option("", "run folder to write; an existing run of the same kind is continued", metavar="FOLDER")
    detector: str = _option("tiny", "zoo name (see `groundlabel models`), hub id or model folder", metavar="NAME")
    segmenter: str = _option("tiny-sam", "zoo name, hub id, model folder or .pth checkpoint", metavar="NAME")
    box_threshold: float = _option(0.35, "lowest detector score of a box", least=0, most=1)
    text_threshold: float = _option(0.25, "lowest score of a box's words", least=0, most=1)
    nms_iou: float = _option(0.7, "overlap at which the weaker box of a class goes; 1 keeps all", least=0, most=1)
    class_agnostic_nms: bool = _option(False, "compare boxes of all classes for overlap, not only of one class")
    min_box_area: float = _option(0.0, "smallest box in square pixels", least=0)
    max_box_share: float = _option(1.0, "largest share of the image that a box may cover", above=0, most=1)
    size: int | None = _option(None, "short side in pixels to which the detector resizes (model's default)", least=16)
    prompts_per_pass: int | None = _option(None, "most prompts in one detector pass (as many as fit)", least=1)
    root: str | None = _option(None, "folder that the paths of a list start from (the list's)", metavar="FOLDER")
    pixel_limit: float = _option(100.0, "most megapixels of an image; larger ones fail", above=0)
    limit: int | None = _option(None, "label only the first N images", least=1, metavar="N")
    device: str = _option("auto", "auto, cpu or cuda")
    workers: int | None = _option(None, "worker processes (one a GPU; one on a CPU)", least=1, metavar="N")
    threads: int | None = _option(None, "CPU threads a worker (the cores shared among the workers)", least=1)
    batch_size: int = _option(8, "most images of equal size in one detector batch", least=1)
    shard_size: int = _option(16, "most images in one unit of work, which ends as one file", least=1)
    overwrite: bool = _option(False, "replace the run in the output folder, whatever made it")

    def __post_init__(self) -> None:
        for option in fields(self):
            object.__setattr__(self, option.name, _checked(option.name, getattr(self, option.name)))
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(
                f"--device {self.device}: must be auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among several GPUs"
            )

    @property
    def filters(self) -> FilterSettings:
        """The options that filter boxes."""
        return FilterSettings(self.nms_iou, self.class_agnostic_nms, self.min_box_area, self.max_box_share)

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


def _toml_value(value: str | bool | int | float) -> str:
    """Write a scalar; a JSON string is also a TOML basic string, once DEL is escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


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
