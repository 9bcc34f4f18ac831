"""The rounds of training that lead to the bundled detector: what each one shows and how it optimises."""

from dataclasses import dataclass, replace
from typing import Literal

from models.training.batches import Phase
from models.training.tiny import image_size

EARLY_SIZES = (224, 240, 256)
USED_SIZES = (304, 320, 336)


@dataclass(frozen=True)
class Round:
    """One round of training, by Muon.

    Attributes:
        cycle: Steps of 16 images of the backbone's learning-rate cycle, before detection; 0 for none.
        learning_rate: Peak of that cycle.
        windows: Least and largest part of a scene's side that the backbone is shown in that cycle.
        steps: Detection steps of 8 images.
        phases: Image sizes of detection.
        decay_from: Share of the detection steps after which its learning rate falls.
        hard_share: Share of a scene's absent prompts that share a word with what is there.
        nothing_present: Share of a scene's prompt sets of which nothing is there.
        detection_rate: Peak of detection's learning rate.
        giou: Weight of the GIoU loss.
        width: `d_model` from this round on; 128 is 64 widened.
        decoder_layers: Decoder layers from this round on; new ones start as copies of the last.
        denoising_queries: About how many positive denoising queries an image has.
        min_objects: Fewest objects of a scene, so that a step has more to learn from.
        keep_present: Chance of each class that is there to be asked for.
        cell_share: Share of the steps that see blood cells instead of scenes.
        cell_alpha: Weight of positives in the cells' focal loss; .25 as in scenes, more because labels are missing.
        cells: How blood cells are shown: square windows of the images, turned by quarters, too, and changed more in
            colour, or whole images.
        ema: Decay of the averaged weights; 0 keeps the last ones.
        earlier_share: Share that the weights from before the round have in those that it ends with.
        refiner: Whether the detector has a box refiner from this round on.
    """

    cycle: int
    learning_rate: float
    windows: tuple[float, float]
    steps: int
    phases: tuple[Phase, ...]
    decay_from: float = 0.1
    hard_share: float = 0.85
    nothing_present: float = 0.2
    detection_rate: float = 2e-3
    giou: float = 5.0
    width: int = 128
    decoder_layers: int = 4
    denoising_queries: int = 60
    min_objects: int = 7
    keep_present: float = 0.9
    cell_share: float = 0.3
    cell_alpha: float = 0.4
    cells: Literal["windows", "whole"] = "windows"
    ema: float = 0.98
    earlier_share: float = 0.0
    refiner: bool = True

    @property
    def size(self) -> dict[str, int]:
        """Image size for use: the middle one of those that the round ends with."""
        sides = sorted(self.phases[-1].short_sides)
        return image_size(sides[len(sides) // 2])


SHAPES = Round(
    cycle=3000,
    learning_rate=3e-3,
    windows=(0.55, 1.0),
    steps=1200,
    phases=(Phase(0.65, (144, 160, 176)), Phase(1.0, (208, 224, 240))),
    hard_share=0.8,
    nothing_present=0.25,
    giou=2.0,
    width=64,
    decoder_layers=3,
    denoising_queries=30,
    min_objects=1,
    keep_present=0.85,
    cell_share=0.0,
    ema=0.0,
    refiner=False,
)
DETECTION = Round(
    cycle=1400,
    learning_rate=2e-3,
    windows=(0.35, 0.7),
    steps=1900,
    phases=(Phase(0.6, EARLY_SIZES), Phase(1.0, USED_SIZES)),
)
WHOLE_CELLS = replace(
    DETECTION,
    cycle=0,
    steps=750,
    phases=(Phase(1.0, USED_SIZES),),
    nothing_present=0.25,
    detection_rate=1e-3,
    cell_share=0.6,
    cells="whole",
    earlier_share=0.2,
)
ROUNDS = {"shapes": SHAPES, "detection": DETECTION, "whole_cells": WHOLE_CELLS}
"""The first is narrow and sees small images, which saves half of its time. The second is twice as wide and sees blood
cells as well, fuller scenes, and images as large as in use: there the exactness of boxes is decided, and with prompt
sets of which nothing is there, how many false boxes are left. The third shows cells in whole images: most of those that
have no label lie at an image's border, which a window hides. As it shows few scenes, a fifth of the weights before it
stays, which know referring expressions better (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models")."""


@dataclass(frozen=True)
class RefinerRound:
    """The last round, which leaves the detector as it is and trains its box refiner alone.

    Attributes:
        shown: Steps of 8 images that the detector looks at once; of this round what it shows counts.
        steps: Of 4 of those images.
        learning_rate: Peak.
    """

    shown: Round
    steps: int
    learning_rate: float


REFINER = RefinerRound(
    replace(
        WHOLE_CELLS,
        steps=300,
        phases=(Phase(1.0, (320,)),),
        nothing_present=0.0,
        keep_present=1.0,
        cell_share=0.17,
    ),
    steps=4000,
    learning_rate=5e-3,
)
