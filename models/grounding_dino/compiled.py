"""The two steps of inference compiled by torch, for shapes that repeat.

Compiling takes minutes a shape, so a shape runs as it is until it has come twice, and only a few shapes are ever
compiled. On a CUDA device a compiled step is replayed as a CUDA graph, which spares it the launches of its kernels.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable
from textwrap import shorten
from typing import Any, TypeAlias

import torch
from torch import Tensor

from models.grounding_dino.features import GroundingModel, ImageFeatures, TextFeatures
from models.grounding_dino.forward import encode_image, predict_coarsely, refine
from models.out_of_memory import is_out_of_memory
from models.precision import Precision

SEEN_BEFORE = 2
"""How often a shape runs as it is before it is compiled."""
_MOST_SHAPES = 8
"""Shapes of a step that are compiled; torch forgets none, and each takes time and memory."""
_LOG = logging.getLogger(__name__)

LevelHw: TypeAlias = tuple[tuple[int, int], ...]
Step: TypeAlias = Callable[..., tuple[Tensor, ...]]


class CompiledStep:
    """A step that is compiled for the shapes that repeat; where that fails, it goes on as it is, with a note.

    Args:
        step: Takes sizes, a tuple of integers, and tensors; its results depend on nothing else that changes.
        name: For the notes.
        options: Of `torch.compile`.
    """

    def __init__(self, step: Step, name: str, options: dict[str, Any]) -> None:
        self._step = step
        self._name = name
        self._compiled = torch.compile(step, dynamic=False, **options)
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._shapes: set[tuple[Any, ...]] = set()
        self._failed = False

    def __call__(self, sizes: LevelHw, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the step; results are of the caller's own, also from a CUDA graph."""
        key = (sizes, *((tuple(one.shape), one.dtype) for one in tensors))
        if not self._is_worth_it(key):
            self._seen[key] += 1
            return self._step(sizes, *tensors)
        if key not in self._shapes:
            self._shapes.add(key)
            _LOG.info("compiling the %s for inputs of %s: this may take minutes", self._name, key[1][0])
        try:
            return tuple(one.clone() for one in self._compiled(sizes, *tensors))
        except Exception as error:  # a compiler may raise anything
            if is_out_of_memory(error):
                raise
            self._failed = True
            reason = shorten(str(error), 200) or type(error).__name__
            _LOG.warning("the %s cannot be compiled and runs as it is: %s", self._name, reason)
        return self._step(sizes, *tensors)

    def _is_worth_it(self, key: tuple[Any, ...]) -> bool:
        if self._failed or key in self._shapes:
            return not self._failed
        return self._seen[key] >= SEEN_BEFORE and len(self._shapes) < _MOST_SHAPES


class CompiledSteps:
    """`encode_image` and `predict` of a model, compiled for the shapes that repeat.

    Args:
        model: On its device, in evaluation mode.
        precision: As both take it.
        backend: Of torch.compile.
    """

    def __init__(self, model: GroundingModel, precision: Precision, backend: str = "inductor") -> None:
        # A check of transformers' on a tensor's values would break the graph in each layer.
        os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
        options: dict[str, Any] = {"backend": backend}
        if backend == "inductor" and model.device.type == "cuda":
            options["mode"] = "reduce-overhead"

        def encode(sizes: LevelHw, pixels: Tensor) -> tuple[Tensor, ...]:
            image = encode_image(model, pixels, precision)
            return image.tokens, image.positions, image.summary, *(image.fine or ())

        def decide(
            sizes: LevelHw, tokens: Tensor, positions: Tensor, summary: Tensor, *text: Tensor
        ) -> tuple[Tensor, ...]:
            image = ImageFeatures(tokens, positions, [*sizes], summary)
            return predict_coarsely(model, image, TextFeatures(*text), precision)

        self._model = model
        self._precision = precision
        self._encode = CompiledStep(encode, "image backbone", options)
        self._decide = CompiledStep(decide, "feature enhancer and decoder", options)
        self._levels: dict[torch.Size, LevelHw] = {}

    @torch.inference_mode()
    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Run the image backbone; see `models.grounding_dino.forward.encode_image`."""
        if pixels.shape not in self._levels:
            image = encode_image(self._model, pixels, self._precision)
            self._levels[pixels.shape] = tuple(image.level_hw)
            return image
        sizes = self._levels[pixels.shape]
        tokens, positions, summary, *fine = self._encode(sizes, pixels)
        return ImageFeatures(tokens, positions, [*sizes], summary, (fine[0], fine[1]) if fine else None)

    @torch.inference_mode()
    def predict(self, image: ImageFeatures, text: TextFeatures) -> tuple[Tensor, Tensor]:
        """Run all that follows; see `models.grounding_dino.forward.predict`. The refinement is not compiled."""
        parts = (text.tokens, text.token_mask, text.phrase_mask, text.position_ids)
        found = self._decide(tuple(image.level_hw), image.tokens, image.positions, image.summary, *parts)
        logits, boxes, queries = found
        return logits, refine(self._model, image, logits, boxes, queries)
