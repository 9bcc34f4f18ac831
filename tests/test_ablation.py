"""The ablation's arms: what each lacks is really off, and the table says what was trained."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jobs.ablation import read_results, table
from models.grounding_dino.forward import encode_image, encode_text, enhance
from models.grounding_dino.query_selection import start_queries
from models.grounding_dino.spans import join_prompts, prompt_tokens, stack_texts
from models.training.ablation import Arm, arms, arms_without, build_arm, train_arm
from models.training.forward import DenoisingTrainer
from models.training.pretrain import backbone_of
from models.training.tiny import build_tiny, tiny_processor, tiny_words

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def backbone() -> dict[str, Tensor]:
    return backbone_of(build_tiny())


def arm_called(name: str) -> Arm:
    return next(arm for arm in arms() if name in arm.name)


def vision_and_anchors(trainer: DenoisingTrainer, folder: Path, prompt: str) -> tuple[Tensor, Tensor]:
    """Return the enhanced image tokens and the anchors of one image for a prompt."""
    tokenizer = tiny_processor(tiny_words(), folder).tokenizer
    ids, mask = stack_texts([join_prompts(tokenizer, [prompt_tokens(tokenizer, prompt)])])
    pixels = torch.randn((1, 3, 96, 96), generator=torch.Generator().manual_seed(1))
    model = trainer.model.eval()
    with torch.inference_mode():
        encoded = enhance(model, encode_image(model, pixels), encode_text(model, ids, mask, trainer.text_level))
        return encoded.vision, start_queries(model, encoded).references


def test_each_row_adds_one_ingredient() -> None:
    rows = arms()
    for above, row in pairwise(rows):
        changed = [name for name in vars(row) if name != "name" and getattr(row, name) != getattr(above, name)]
        assert len(changed) == 1, row.name


def test_the_whole_detector_less_one() -> None:
    whole = arms()[-1]
    for arm in arms_without():
        changed = {name for name in vars(arm) if getattr(arm, name) != getattr(whole, name)} - {"name"}
        assert changed == {"two_stage", "mixed"} if "two_stage" in changed else len(changed) == 1, arm.name
    assert len(set(map(repr, arms_without()))) == len({arm.name for arm in arms_without()}) == 7


def test_without_fusion_the_image_does_not_see_the_text(backbone: dict[str, Tensor], tmp_path: Path) -> None:
    for name, sees in (("cross-modality decoder", False), ("encoder fusion", True)):
        trainer = build_arm(arm_called(name), backbone, seed=0)
        one, _ = vision_and_anchors(trainer, tmp_path, "red circle")
        two, _ = vision_and_anchors(trainer, tmp_path, "blue star")
        assert bool((one - two).abs().max() > 1e-6) == sees


def test_learned_anchors_do_not_see_the_text(backbone: dict[str, Tensor], tmp_path: Path) -> None:
    for name, sees in (("static queries", False), ("two-stage", True)):
        trainer = build_arm(arm_called(name), backbone, seed=0)
        _, one = vision_and_anchors(trainer, tmp_path, "red circle")
        _, two = vision_and_anchors(trainer, tmp_path, "blue star")
        assert bool((one - two).abs().max() > 1e-6) == sees


@pytest.mark.parametrize("name", ["static queries", "sub-sentence"])
def test_an_arm_trains_and_keeps_off_what_is_off(name: str, backbone: dict[str, Tensor], tmp_path: Path) -> None:
    arm = arm_called(name)
    trainer = build_arm(arm, backbone, seed=0)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    processor = tiny_processor(tiny_words(), tmp_path / "processor")
    figures = train_arm(arm, trainer, processor, tmp_path / "arm", steps=2, seed=0, scenes=2)
    assert set(figures) == {"AP50", "AP"}
    after = trainer.model.state_dict()
    for key, value in after.items():
        if key.endswith(("vision_param", "text_param", "encoder_attn_text.out_proj.weight")):
            assert bool(value.abs().sum() > 0) == (arm.fusion if "param" in key else arm.decoder_text)
    moved = "model.reference_points.weight" if not arm.two_stage else "model.encoder_output_bbox_embed.layers.2.weight"
    assert not torch.equal(before[moved], after[moved])


def test_the_table_averages_the_seeds_of_one_budget(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text("arm,seed,steps,AP50,AP\na,0,10,.5,.2\na,1,10,.7,.4\na,0,99,.9,.9\nb,0,10,.1,.1\n")
    lines = table(read_results(file), 10).splitlines()
    assert lines[2:] == ["| a | 0.600 | 0.300 | 0.200, 0.400 |", "| b | 0.100 | 0.100 | 0.100 |"]
    assert read_results(tmp_path / "none.csv") == []
