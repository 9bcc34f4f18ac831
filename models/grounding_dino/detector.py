"""The Grounding DINO detector: an ontology's prompts and a batch of images in, `Detections` out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import GroundingDinoProcessor, PreTrainedTokenizerBase
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import SizeDict

from models.boxes import FloatArray, clip_boxes, cxcywh_rel_to_xyxy
from models.class_spec import ClassSpec
from models.detections import Detections
from models.grounding_dino.compiled import CompiledSteps
from models.grounding_dino.features import GroundingModel, ImageFeatures, TextLevel
from models.grounding_dino.forward import encode_image
from models.grounding_dino.packing import join_groups, pack_prompts
from models.grounding_dino.passes import PassScores, run_passes
from models.grounding_dino.prefilter import LOOK_SCALE, keep_classes, look, rank_classes
from models.grounding_dino.text_cache import TextCache
from models.grounding_dino.texts import PromptTexts, TextPass
from models.interfaces import Image
from models.ontology import Ontology
from models.precision import Precision, check_precision
from models.resize import LARGE_BYTES, resize_in_bands

BOX_THRESHOLD = 0.35
TEXT_THRESHOLD = 0.25
"""Defaults of the GroundingDINO repository's demos."""


@dataclass(frozen=True)
class DetectorSettings:
    """How a detector decides.

    Attributes:
        box_threshold: Least score of a box, unless its class has its own.
        text_threshold: Least probability that the best token of the box's prompt must reach, likewise.
        size: Shorter side to which images are resized, pixels; None for the model's own.
        prompts_per_pass: Most prompts a text pass, the negatives among them; None for as many as fit.
        text_level: Which words of a text see each other; what the model was trained with.
        prefilter: Classes that an image is asked for after a cheap first look at all of them; None asks for all, as
            does a vocabulary that one text pass holds, where a look costs more than it saves.
        precision: What the backbone and the feature enhancer compute in (`models.precision`).
        compile: Compile the model for shapes that repeat (`models.grounding_dino.compiled`).

    Raises:
        ValueError: A number is out of range.
    """

    box_threshold: float = BOX_THRESHOLD
    text_threshold: float = TEXT_THRESHOLD
    size: int | None = None
    prompts_per_pass: int | None = None
    text_level: TextLevel = "sub-sentence"
    prefilter: int | None = None
    precision: Precision = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("box_threshold", "text_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if self.size is not None and self.size < 32:
            raise ValueError(f"size must be at least 32 pixels, not {self.size}")
        if self.prompts_per_pass is not None and self.prompts_per_pass < 1:
            raise ValueError(f"prompts_per_pass must be at least 1, not {self.prompts_per_pass}")
        if self.prefilter is not None and self.prefilter < 1:
            raise ValueError(f"prefilter must be at least 1 class, not {self.prefilter}")


class GroundingDinoDetector:
    """Runs Grounding DINO or MM-Grounding-DINO; satisfies `models.interfaces.Detector`.

    Text is encoded once, when the detector is made; the image backbone runs once an image for all text passes. Negative
    prompts are part of every pass, so that each query can choose them; what they win over a box that would have been
    found is returned with class id 0, for the filters to drop and count.

    Args:
        model: The model; it is put into evaluation mode and moved to `device`.
        processor: Its processor, for the tokenizer and the resize.
        ontology: Classes and prompts.
        settings: Thresholds, size and packing.
        device: Where to run.
        text_cache: Where encoded prompts are kept between runs; None keeps them nowhere.

    Raises:
        ValueError: The ontology has no prompt, a prompt is too long or empty for the tokenizer, the negatives leave no
            room for the others, the model has no first stage that a prefilter could ask, or the device cannot compute
            in the precision.
    """

    def __init__(
        self,
        model: GroundingModel,
        processor: GroundingDinoProcessor,
        ontology: Ontology,
        settings: DetectorSettings = DetectorSettings(),
        device: torch.device | str = "cpu",
        text_cache: TextCache | None = None,
    ) -> None:
        if not ontology.prompts:
            raise ValueError("the ontology has no prompt to look for")
        self.model = model
        nn.Module.to(nn.Module.eval(model), device)
        self.device = torch.device(device)
        self._precision = check_precision(settings.precision, str(self.device))
        self._compiled = CompiledSteps(model, self._precision) if settings.compile else None
        self._image_processor = processor.image_processor
        size = self._image_processor.size
        self._short = settings.size or int(size["shortest_edge"])
        self._long = int(size["longest_edge"])
        if settings.size:
            self._long = round(settings.size * size["longest_edge"] / size["shortest_edge"])
        self._prompts = ontology.prompts
        self._class_ids = np.array([prompt.class_id for prompt in self._prompts], np.int64)
        by_class = {spec.id: spec for spec in ontology.classes}
        self._box_thresholds = self._per_prompt(by_class, "box_threshold", settings.box_threshold)
        self._text_thresholds = self._per_prompt(by_class, "text_threshold", settings.text_threshold)
        self._prefilter = settings.prefilter
        if settings.prefilter is not None:
            _check_first_stage(model)
        self._per_pass = settings.prompts_per_pass
        self._passes = self._encode_prompts(processor.tokenizer, settings.text_level, text_cache)
        self._prefilter = self._useful_prefilter(settings.prefilter)

    def _useful_prefilter(self, kept: int | None) -> int | None:
        """Return the prefilter's classes; None where that many or one pass are all there is."""
        classes = len(np.unique(self._class_ids[self._class_ids > 0]))
        return kept if kept is not None and kept < classes and len(self._passes) > 1 else None

    def _per_prompt(self, by_class: dict[int, ClassSpec], name: str, default: float) -> FloatArray:
        values = [getattr(by_class.get(prompt.class_id), name, None) for prompt in self._prompts]
        return np.array([default if value is None else value for value in values], np.float32)

    @torch.inference_mode()
    def _encode_prompts(
        self, tokenizer: PreTrainedTokenizerBase, level: TextLevel, cache: TextCache | None
    ) -> list[TextPass]:
        texts = [prompt.text for prompt in self._prompts]
        self._texts = PromptTexts(self.model, tokenizer, texts, level, self.device, cache)
        negative = np.flatnonzero(self._class_ids == 0).tolist()
        lengths = [len(ids) for ids in self._texts.tokens]
        taken = sum(lengths[index] + 1 for index in negative)
        self._negative = negative
        self._room = self.model.config.max_text_len - taken
        self._share = None if self._per_pass is None else max(self._per_pass - len(negative), 1)
        asked = np.flatnonzero(self._class_ids).tolist()
        longest = max(asked, key=lambda index: lengths[index])
        if lengths[longest] + 3 > self._room:
            raise ValueError(
                f"the {len(negative)} negative prompts take {taken} of the {self.model.config.max_text_len} tokens of "
                f"a text and leave no room for {self._prompts[longest].text!r}; use fewer"
            )
        tokens = [self._texts.tokens[index] for index in asked]
        packed = pack_prompts([len(ids) for ids in tokens], self._room, self._share, tokens)
        return [self._texts.compose([*(asked[place] for place in places), *negative]) for places in packed]

    def _narrow_passes(self, asked: NDArray[np.int64]) -> list[TextPass]:
        """Ask for some prompts in the company that they have among all, and join passes that became small.

        A joined pass is at most half full: with all that is likely in one pass, alike names would be together, and
        their scores would not be those of asking for everything.
        """
        kept = set(asked.tolist())
        most = None if self._share is None else (self._share + 1) // 2
        groups = [[index for index in text_pass.prompts if index in kept] for text_pass in self._passes]
        joined = join_groups(groups, [len(ids) for ids in self._texts.tokens], self._room // 2, most)
        return [self._texts.compose([*members, *self._negative]) for members in joined]

    @property
    def pass_count(self) -> int:
        """How many text passes all prompts take."""
        return len(self._passes)

    def resized_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) to which an image is resized: aspect kept, as the processor does it."""
        height, width = get_size_with_aspect_ratio(image_hw, self._short, self._long)
        return max(int(height), 1), max(int(width), 1)

    def __call__(self, images: Sequence[Image]) -> list[Detections]:
        """Detect in images of one resized size; see `models.interfaces.Detector`."""
        if not images:
            return []
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"an image must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")
        sizes = {self.resized_hw(image.shape[:2]) for image in images}
        if len(sizes) > 1:
            raise ValueError(f"images of one batch must have one resized size, not {sorted(sizes)}")
        found, summaries = self._look_at(images)
        return [
            replace(self._to_detections(image.shape[:2], found, row), image_feature=summaries[row])
            for row, image in enumerate(images)
        ]

    def score_passes(self, images: Sequence[Image]) -> list[PassScores]:
        """Run the model and score every query for every prompt of its pass, without thresholds.

        Args:
            images: B images of one resized size, at least one.

        Returns:
            What each text pass says. With a prefilter a pass may concern some images only; it is 0 for the others.
        """
        return self._look_at(images)[0]

    @torch.inference_mode()
    def _look_at(self, images: Sequence[Image]) -> tuple[list[PassScores], FloatArray]:
        """Return what each text pass says, and the images' features, (B, D) float32."""
        if self._prefilter is None:
            features = self._features(images)
            return list(self._run_passes(features, self._passes)), _summaries(features)
        likely = self._first_look(images)
        found, summaries = [], []
        for row, image in enumerate(images):
            passes = self._narrow_passes(keep_classes(likely[row], self._class_ids, self._prefilter))
            features = self._features([image])
            summaries.append(_summaries(features))
            for scores in self._run_passes(features, passes):
                found.append(scores.for_image(row, len(images)))
        return found, np.concatenate(summaries)

    def score(self, images: Sequence[Image]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Score every query for every prompt, as one table; for small vocabularies.

        Args:
            images: B images of one resized size, at least one.

        Returns:
            Scores (B, Q, P) and best-token probabilities (B, Q, P), float32, 0 where the query belongs to a pass
            without the prompt; boxes (B, Q, 4), cx cy w h relative to the image. Q counts the queries of all passes.
        """
        found = self.score_passes(images)
        all_scores, all_tops = [], []
        for part in found:
            scores = np.zeros((*part.boxes.shape[:2], len(self._prompts)), np.float32)
            tops = scores.copy()
            scores[..., part.prompts], tops[..., part.prompts] = part.scores, part.tops
            all_scores.append(scores)
            all_tops.append(tops)
        boxes = np.concatenate([part.boxes for part in found], axis=1)
        return np.concatenate(all_scores, axis=1), np.concatenate(all_tops, axis=1), boxes

    def rank_classes(self, images: Sequence[Image]) -> list[NDArray[np.int64]]:
        """Say in which order the prefilter's first look would leave the classes of each image.

        Args:
            images: B images of one resized size.

        Returns:
            B arrays (C + 1,): the place of each class by its id, from 1 for the likeliest; that of no class comes last.

        Raises:
            ValueError: The model has no first stage.
        """
        _check_first_stage(self.model)
        return [rank_classes(row, self._class_ids) for row in self._first_look(images)]

    @torch.inference_mode()
    def _first_look(self, images: Sequence[Image]) -> FloatArray:
        features = self._features(images, LOOK_SCALE)
        return look(self.model, features, self._passes, len(self._prompts), self._precision)

    def _features(self, images: Sequence[Image], scale: float = 1.0) -> ImageFeatures:
        pixels = self._pixels(images, scale)
        if self._compiled is not None:
            return self._compiled.encode_image(pixels)
        return encode_image(self.model, pixels, self._precision)

    def _run_passes(self, features: ImageFeatures, passes: Sequence[TextPass]) -> Iterator[PassScores]:
        return run_passes(self.model, features, passes, self._precision, self._compiled)

    def _pixels(self, images: Sequence[Image], scale: float = 1.0) -> Tensor:
        height, width = (max(round(side * scale), 1) for side in self.resized_hw(images[0].shape[:2]))
        batch = self._image_processor(
            images=[
                resize_in_bands(image, (height, width), self._resize) if image.nbytes > LARGE_BYTES else image
                for image in images
            ],
            size={"height": height, "width": width},
            do_pad=False,
            input_data_format="channels_last",
            return_tensors="pt",
            device=self.device,
        )
        pixels: Tensor = batch["pixel_values"].to(self.device, self.model.dtype)
        return pixels

    def _resize(self, image: Image, image_hw: tuple[int, int]) -> Image:
        """Resize an image as the processor would."""
        size = SizeDict(height=image_hw[0], width=image_hw[1])
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        resized: Tensor = self._image_processor.resize(pixels, size, resample=self._image_processor.resample)
        return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())

    def _to_detections(self, image_hw: tuple[int, int], found: Sequence[PassScores], row: int) -> Detections:
        """Keep, for each query, each class whose best prompt passes, or the negative prompt that is better than all."""
        rows = [self._judge(part, row) for part in found]
        scores, prompts = (np.concatenate([part[place] for part in rows]) for place in (0, 1))
        boxes = np.concatenate([part[2] for part in rows])
        order = np.argsort(-scores, kind="stable")
        pixels = clip_boxes(cxcywh_rel_to_xyxy(boxes[order], image_hw), image_hw)
        return Detections(image_hw, pixels, scores[order], self._class_ids[prompts[order]], prompts[order])

    def _judge(self, part: PassScores, row: int) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
        """Return scores, prompts and boxes of what one pass finds in one image."""
        prompts = np.array(part.prompts, np.int64)
        scores, tops, classes = part.scores[row], part.tops[row], self._class_ids[prompts]
        passes = (scores >= self._box_thresholds[prompts]) & (tops >= self._text_thresholds[prompts]) & (scores > 0)
        passes[:, classes == 0] = False
        if (classes == 0).any():
            negative = np.flatnonzero(classes == 0)
            best = negative[scores[:, negative].argmax(1)]
            beaten = passes & (scores < scores[np.arange(len(scores)), best][:, None])
            passes &= ~beaten
            passes[np.arange(len(scores)), best] = beaten.any(1) & ~passes.any(1)
        queries, columns = np.nonzero(passes)
        # Of a query's prompts of one class the best stays, of equal ones the first.
        order = np.lexsort((columns, -scores[queries, columns], classes[columns], queries))
        queries, columns = queries[order], columns[order]
        first = np.ones(len(queries), dtype=bool)
        first[1:] = (queries[1:] != queries[:-1]) | (classes[columns[1:]] != classes[columns[:-1]])
        queries, columns = queries[first], columns[first]
        return scores[queries, columns], prompts[columns], part.boxes[row, queries]


def _check_first_stage(model: GroundingModel) -> None:
    if not model.config.two_stage:
        raise ValueError("the prefilter asks a detector's first stage, and this one has none; leave it off")


def _summaries(features: ImageFeatures) -> FloatArray:
    return np.asarray(features.summary.float().cpu().numpy(), np.float32)
