"""What a person may choose about fine-tuning. Imports no torch, so that a command line can be made of it."""

from dataclasses import dataclass, field
from typing import Literal

PARTS = ("backbone", "text")
"""Parts that can be frozen: the image backbone, the text encoder."""
TEXT_LEVELS = ("sub-sentence", "word", "sentence")
DENOISING_KINDS = ("contrastive", "plain", "none")
DEFAULT_EPOCHS = 50.0


@dataclass(frozen=True)
class FinetuneConfig:
    """How to fine-tune; the `help` of each field is what the command line says of it.

    Raises:
        ValueError: A value is out of range or unknown.
    """

    epochs: float | None = field(
        default=None, metadata={"help": f"passes over the training images (default: {DEFAULT_EPOCHS:g})"}
    )
    minutes: float | None = field(default=None, metadata={"help": "train for this long, instead of --epochs"})
    batch_size: int = field(default=8, metadata={"help": "images a step, for each worker"})
    learning_rate: float | None = field(
        default=None, metadata={"help": "peak learning rate (default: 2e-3 under 20 million parameters, else 1e-4)"}
    )
    size: int | None = field(
        default=None,
        metadata={
            "help": "shorter image side in pixels; kept with the model "
            "(default: the model's own, a small model's up to half more where objects are small)"
        },
    )
    max_prompts: int = field(
        default=40, metadata={"help": "most class names that an image is asked for at once in training"}
    )
    freeze: tuple[str, ...] = field(
        default=(), metadata={"help": "parts to leave as they are, separated by commas: backbone, text"}
    )
    text_level: Literal["sub-sentence", "word", "sentence"] = field(
        default="sub-sentence", metadata={"help": "which words see each other: those of a class name, none, all"}
    )
    denoising: Literal["contrastive", "plain", "none"] = field(
        default="contrastive", metadata={"help": "denoising queries: DINO's, DN-DETR's, or none"}
    )
    look_forward_twice: bool = field(
        default=True, metadata={"help": "let the box of a decoder layer train the layer before, too"}
    )
    closed_set: bool = field(
        default=False, metadata={"help": "learn one vector a class in place of text: DINO, which takes no new prompts"}
    )
    vertical_flip: bool = field(
        default=False, metadata={"help": "mirror images top to bottom, too: for microscopes and pictures from above"}
    )
    whole_from: float = field(
        default=0.7,
        metadata={
            "help": "share of the training after which images are shown whole, not in windows and mosaics of four"
        },
    )
    quarter_turns: bool = field(
        default=False, metadata={"help": "turn images by a quarter, too: for images that have no up and down"}
    )
    seed: int = field(default=0, metadata={"help": "of all that is random"})

    def __post_init__(self) -> None:
        if self.epochs is not None and self.minutes is not None:
            raise ValueError("give --epochs or --minutes, not both")
        for name in ("epochs", "minutes", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {value}")
        for name in ("batch_size", "max_prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.size is not None and not 32 <= self.size <= 4096:
            raise ValueError(f"size must be between 32 and 4096 pixels, not {self.size}")
        if not 0 <= self.whole_from <= 1:
            raise ValueError(f"whole_from must be a share between 0 and 1, not {self.whole_from}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        object.__setattr__(self, "freeze", tuple(self.freeze))
        for part in self.freeze:
            if part not in PARTS:
                raise ValueError(f"freeze knows {' and '.join(PARTS)}, not {part!r}")
        if self.text_level not in TEXT_LEVELS:
            raise ValueError(f"text_level must be one of {', '.join(TEXT_LEVELS)}, not {self.text_level!r}")
        if self.denoising not in DENOISING_KINDS:
            raise ValueError(f"denoising must be one of {', '.join(DENOISING_KINDS)}, not {self.denoising!r}")
