"""What a vocabulary costs: packed text passes over one image's features, beside the whole model a chunk of names."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, GroundingDinoProcessor, SwinConfig

from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.load import random_from_config
from models.grounding_dino.packing import pack_prompts
from models.grounding_dino.spans import join_prompts, prompt_tokens, stack_texts
from models.interfaces import Image
from models.ontology import Ontology
from models.training.tiny import tiny_processor

CHUNK = 40
"""Names a chunk where tools cut a list of names by count, such as MM-Grounding-DINO's evaluation on LVIS."""
CHUNKS_TIMED = 4
_LENGTHS = (1, 2, 1, 3, 2)
"""Tokens of the names, in turn: 1.8 on average. COCO's 80 names have 1.4, LVIS' are rarer words."""
_FIRST, _OTHER = 1300, 200
"""Made-up words that begin a name, one each, and words that go on."""


@dataclass(frozen=True)
class Cost:
    """Processor seconds an image, the median of the rounds.

    Attributes:
        classes: How many were asked for.
        passes: Text passes of the packed way.
        chunks: Runs of the whole model of the other.
        exact: Packed passes.
        prefiltered: A first look, then packed passes for what it left; None where it was not measured.
        chunked: The whole model, text encoder included, a chunk; of more than `CHUNKS_TIMED` chunks, that many are run
            and the rest is taken to be alike, as each but the last has as many names.
    """

    classes: int
    passes: int
    chunks: int
    exact: float
    prefiltered: float | None
    chunked: float

    def __str__(self) -> str:
        text = (
            f"{self.classes:5d} classes: {self.passes:2d} passes {self.exact:6.2f} s, "
            f"{self.chunks:2d} chunks {self.chunked:6.2f} s: exact {self.exact / self.chunked:.2f} of the chunks"
        )
        if self.prefiltered is None:
            return text
        return f"{text}, with the prefilter {self.prefiltered / self.chunked:.2f} ({self.prefiltered:.2f} s)"


def random_detector(folder: Path, config_file: Path | None) -> tuple[GroundingModel, GroundingDinoProcessor]:
    """Make a detector with random weights, and a processor of made-up words.

    Args:
        folder: Where the tokenizer's files go.
        config_file: A model's config.json; None for the architecture of grounding-dino-tiny.

    Raises:
        ValueError: The file holds another kind of model.

    Source: the published configuration of IDEA-Research/grounding-dino-tiny; what is not named here is
        transformers' default, which is its own.
    """
    processor = tiny_processor([*_words("a", _FIRST), *_words("b", _OTHER)], folder)
    torch.manual_seed(0)
    if config_file is not None:
        return random_from_config(config_file), processor
    backbone = SwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        image_size=224,
    )
    backbone.out_features = ["stage2", "stage3", "stage4"]
    return GroundingDinoForObjectDetection(GroundingDinoConfig(backbone_config=backbone)).eval(), processor


def _words(start: str, count: int) -> list[str]:
    """Return made-up words that a tokenizer leaves whole."""
    digits = str.maketrans("0123456789", "abcdefghij")
    return [f"{start}{place:04d}".translate(digits) for place in range(count)]


def made_up_names(count: int) -> list[str]:
    """Return names of 1 to 3 made-up words, no two alike.

    Raises:
        ValueError: More names than there are first words.
    """
    if count > _FIRST:
        raise ValueError(f"at most {_FIRST} made-up classes, not {count}")
    rest = _words("b", _OTHER)
    names = []
    for place, first in enumerate(_words("a", count)):
        more = [rest[(place + step) % _OTHER] for step in range(_LENGTHS[place % len(_LENGTHS)] - 1)]
        names.append(" ".join([first, *more]))
    return names


def measure_costs(
    counts: Sequence[int],
    image_hw: tuple[int, int] = (480, 640),
    rounds: int = 1,
    prefilter: int | None = None,
    config_file: Path | None = None,
) -> Iterator[Cost]:
    """Measure one image on the processor, both ways in turn, after a warm-up.

    Args:
        counts: Numbers of classes, at least 1 each.
        image_hw: Size of the image as the model sees it.
        rounds: How often each.
        prefilter: Classes that the prefilter leaves; None leaves it out.
        config_file: As of `random_detector`.

    Raises:
        ValueError: A number is out of range, or the file holds no detector's configuration.
    """
    if min(counts) < 1 or rounds < 1:
        raise ValueError("classes and rounds must be at least 1")
    with tempfile.TemporaryDirectory(prefix="groundlabel-bench-") as name:
        model, processor = random_detector(Path(name), config_file)
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), np.uint8)
    _detect(model, processor, image, made_up_names(1), None)()
    _run_chunks(model, processor, image, made_up_names(1))
    for count in counts:
        names = made_up_names(count)
        ways: dict[str, Callable[[], object]] = {"exact": _detect(model, processor, image, names, None)}
        if prefilter is not None and prefilter < count:
            ways["prefiltered"] = _detect(model, processor, image, names, prefilter)
        ways["chunked"] = partial(_run_chunks, model, processor, image, names[: CHUNKS_TIMED * CHUNK])
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                started = time.process_time()
                run()
                seconds[way].append(time.process_time() - started)
        middle = {way: median(values) for way, values in seconds.items()}
        lengths = [len(prompt_tokens(processor.tokenizer, name)) for name in names]
        yield Cost(
            count,
            len(pack_prompts(lengths, model.config.max_text_len)),
            -(-count // CHUNK),
            middle["exact"],
            middle.get("prefiltered"),
            middle["chunked"] * max(count / (CHUNKS_TIMED * CHUNK), 1.0),
        )


def _detect(
    model: GroundingModel, processor: GroundingDinoProcessor, image: Image, names: Sequence[str], prefilter: int | None
) -> Callable[[], object]:
    """Return a call that detects in the image; the text is encoded before, as it is once a run."""
    settings = DetectorSettings(size=min(image.shape[:2]), prefilter=prefilter)
    detector = GroundingDinoDetector(model, processor, Ontology.from_names(names), settings)
    return lambda: detector([image])


@torch.inference_mode()
def _run_chunks(model: GroundingModel, processor: GroundingDinoProcessor, image: Image, names: Sequence[str]) -> None:
    pixels = processor.image_processor(
        images=[image],
        size={"height": image.shape[0], "width": image.shape[1]},
        do_pad=False,
        return_tensors="pt",
    )["pixel_values"]
    tokenizer = processor.tokenizer
    for start in range(0, len(names), CHUNK):
        tokens = [prompt_tokens(tokenizer, name) for name in names[start : start + CHUNK]]
        ids, mask = stack_texts([join_prompts(tokenizer, tokens)])
        model(pixel_values=pixels, input_ids=ids, attention_mask=mask.long(), token_type_ids=torch.zeros_like(ids))
