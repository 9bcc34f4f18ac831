"""The rounds of training that lead to the bundled detector: what each one shows and how it optimises."""

from dataclasses import dataclass, replace
from typing import Literal

from models.training.batches import Phase
from models.training.muon import OptimiserName
from models.training.tiny import image_size

LATE_SIZES = (320, 336, 352)
LARGEST_SIZES = (368, 384, 400)
USED_SIZES = (304, 320, 336)


@dataclass(frozen=True)
class Round:
    """One round of training.

    Attributes:
        cycles: Steps of 16 images of each learning-rate cycle of the backbone.
        learning_rate: Peak of those cycles.
        steps: Detection steps of 8 images.
        phases: Image sizes of detection.
        decay_from: Share of the detection steps after which its learning rate falls.
        hard_share: Share of a scene's absent prompts that share a word with what is there.
        nothing_present: Share of a scene's prompt sets of which nothing is there.
        detection_rate: Peak of detection's learning rate.
        giou: Weight of the GIoU loss.
        width: `d_model` from this round on; 128 is 64 widened.
        decoder_layers: Decoder layers from this round on; new ones start as copies of the last.
        decoder_points: Places that a decoder head reads on each level, from this round on.
        share_box_head: False gives each decoder layer a box head of its own from this round on.
        denoising_queries: About how many positive denoising queries an image has.
        min_objects: Fewest objects of a scene, so that a step has more to learn from.
        keep_present: Chance of each class that is there to be asked for.
        mixed: Share of the last round's weights in what this one starts from, the rest is of the round before it.
        cell_share: Share of the steps that see blood cells instead of scenes.
        cell_alpha: Weight of positives in the cells' focal loss; .25 as in scenes, more because labels are missing.
        cells: How blood cells are shown: windows of the images, varied ones, which are turned by quarters, too, and
            change more in colour, or whole images.
        ema: Decay of the averaged weights.
        refiner: Train nothing but a new box refiner; the rates above are its.
        optimiser: Of the backbone's cycles and of detection.
    """

    cycles: tuple[int, ...]
    learning_rate: float
    steps: int
    phases: tuple[Phase, ...] = (Phase(0.65, (144, 160, 176)), Phase(1.0, (208, 224)))
    decay_from: float = 0.65
    hard_share: float = 0.5
    nothing_present: float = 0.3
    detection_rate: float = 6e-4
    giou: float = 2.0
    width: int = 64
    decoder_layers: int = 3
    decoder_points: int = 4
    share_box_head: bool = True
    denoising_queries: int = 30
    min_objects: int = 1
    keep_present: float = 0.85
    mixed: float = 1.0
    cell_share: float = 0.25
    cell_alpha: float = 0.25
    cells: Literal["windows", "varied", "whole"] = "windows"
    ema: float = 0.998
    refiner: bool = False
    optimiser: OptimiserName = "adamw"

    @property
    def size(self) -> dict[str, int]:
        """Image size for use: the middle one of those that the round ends with."""
        sides = sorted(self.phases[-1].short_sides)
        return image_size(sides[len(sides) // 2])


SHAPES = Round((2000,), 2e-3, 2400, hard_share=0.8, nothing_present=0.25, cell_share=0.0)
FULLER = Round(
    (),
    0.0,
    1250,
    (Phase(0.3, LATE_SIZES), Phase(1.0, LARGEST_SIZES)),
    decay_from=0.3,
    hard_share=0.85,
    nothing_present=0.2,
    detection_rate=4e-4,
    giou=5.0,
    decoder_layers=5,
    decoder_points=8,
    share_box_head=False,
    denoising_queries=60,
    min_objects=5,
    keep_present=0.9,
    mixed=0.75,
    cell_share=0.3,
    cell_alpha=0.4,
    cells="varied",
)
WHOLE_CELLS = replace(
    FULLER,
    steps=200,
    phases=(Phase(1.0, LARGEST_SIZES),),
    decay_from=0.1,
    nothing_present=0.25,
    detection_rate=3e-4,
    mixed=1.0,
    cell_share=0.5,
    cell_alpha=0.25,
    cells="whole",
    ema=0.98,
)
WIDE = replace(
    FULLER,
    steps=1400,
    phases=(Phase(0.35, (256, 272, 288)), Phase(1.0, USED_SIZES)),
    decay_from=0.4,
    detection_rate=5e-4,
    width=128,
    mixed=1.0,
    cell_share=0.25,
)
ROUNDS = (
    Round((900, 2000), 2e-3, 3700),
    Round((4000,), 1e-3, 4800),
    Round((3000,), 1e-3, 3600, (Phase(0.55, (192, 208, 224)), Phase(1.0, (240, 256, 272))), 0.45, 0.65),
    Round((), 0.0, 2300, (Phase(1.0, (272, 288, 304)),), 0.25, 0.8, 0.4, 4e-4, giou=4.0),
    Round((), 0.0, 2000, (Phase(1.0, (272, 288, 304)),), 0.4, 0.8, 0.4, 4e-4, giou=4.0, decoder_layers=5),
    Round((), 0.0, 1750, (Phase(1.0, LATE_SIZES),), 0.35, 0.85, 0.25, 4e-4, giou=4.0, decoder_layers=5),
    Round(
        (),
        0.0,
        500,
        (Phase(1.0, LATE_SIZES),),
        decay_from=0.2,
        hard_share=0.85,
        nothing_present=0.25,
        detection_rate=3e-4,
        giou=4.0,
        decoder_layers=5,
        cell_share=0.4,
        cell_alpha=0.8,
        ema=0.99,
    ),
    FULLER,
    WHOLE_CELLS,
    WIDE,
    replace(
        WHOLE_CELLS,
        steps=180,
        phases=(Phase(1.0, USED_SIZES),),
        nothing_present=0.3,
        detection_rate=2.5e-4,
        width=128,
        cell_share=0.45,
        cell_alpha=0.6,
    ),
    replace(
        WIDE,
        steps=3700,
        phases=(Phase(1.0, USED_SIZES),),
        decay_from=0.3,
        detection_rate=2.5e-3,
        nothing_present=0.0,
        keep_present=1.0,
        denoising_queries=1,
        cell_share=0.17,
        cells="whole",
        ema=0.99,
        refiner=True,
    ),
)
"""The later ones work at the sizes at which the model is used, and weigh boxes more: there their exactness is decided,
and with prompt sets of which nothing is there, how many false boxes are left. The deeper decoder comes late, since it
costs time and refines boxes only. The seventh is for the scores of cells: about a third of BCCD's red cells have no
label, so that a detector learns to doubt them all. The eighth has twice as many boxes in a step: fuller scenes, more of
them asked for, more denoising; and cells in more guises. The ninth shows cells in whole images: most of those that have
no label lie at an image's border, which a window hides. The tenth has twice the width: at 320 px it is as exact on
scenes as the narrow one at 384, and better at cells. The eleventh shows whole cells again, and lifts their scores to
where a user looks. The last leaves all that as it is and learns to place a box's sides exactly."""
