"""Computing in 16 bits where that is safe. Importing this module imports no torch.

What reads images (a detector's backbone and feature enhancer, a segmenter's image encoder) takes nearly all of the time
and forgives rounding; it may compute in bfloat16 or float16, by torch's autocast, with weights that stay float32. What
decides stays in float32: the text encoder, query selection, the decoder with its box refinement, scores, and masks.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from torch import Tensor

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def check_precision(precision: str, device: str) -> Precision:
    """Return a precision that a device can compute in.

    Args:
        precision: One of `PRECISIONS`.
        device: As torch names it.

    Raises:
        ValueError: There is no such precision, or the device has it not; the message says what to use.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    kind = device.partition(":")[0]
    if precision == "fp16" and kind == "cpu":
        raise ValueError("precision fp16 needs a GPU, and this computes on the CPU; use fp32 or bf16")
    if precision == "bf16" and kind == "cuda":
        import torch

        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ValueError(f"precision bf16: {torch.cuda.get_device_name()} cannot compute in it; use fp16")
    return precision


def low_precision(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Return a context in which matrix products and convolutions compute in a precision; fp32 changes nothing.

    Args:
        precision: As `check_precision` returned it.
        device: The kind of device as torch names it, "cpu" or "cuda".
    """
    if precision == "fp32":
        return nullcontext()
    import torch

    return torch.autocast(device, dtype=getattr(torch, _DTYPES[precision]))


def full_precision(device: str) -> AbstractContextManager[object]:
    """Return a context in which all computes in the tensors' own precision, also inside of `low_precision`."""
    import torch

    return torch.autocast(device, enabled=False)


def check_numbers(values: "Tensor", precision: Precision) -> "Tensor":
    """Return what was computed in low precision, unless some of it is no number.

    A score that is no number passes no threshold: an image would be without labels, and nobody knew.

    Args:
        values: Of any shape.
        precision: That they were computed in; with fp32 nothing is looked at.

    Raises:
        ArithmeticError: A value is infinite or NaN.
    """
    if precision != "fp32" and not values.isfinite().all():
        raise ArithmeticError(f"this model's numbers leave the range of {precision}; use bf16 or fp32")
    return values


def add_into(addend: "Tensor", total: "Tensor") -> "Tensor":
    """Return the sum of two tensors in the second one's dtype.

    Args:
        addend: Of low or full precision; its memory is used for the sum where the dtypes are equal.
        total: Of the same shape; not changed.
    """
    return addend.add_(total) if addend.dtype == total.dtype else total + addend
