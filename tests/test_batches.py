"""Batches: a pure function of the step, with each sample's truth on its own prompts' tokens."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from models.training.batches import Phase, StepBatches, collate, sample_to_target
from models.training.prompts import Sample
from tests.grounding_models import NAMED_SAMPLES, RandomSource, picture


def test_truth_on_tokens() -> None:
    """Height and width differ; the second box is named by two prompts, one of two tokens."""
    spans = torch.tensor([[0.0, 1, 0, 0, 0], [0, 0, 0, 1, 1]])
    boxes = np.array([[0, 0, 40, 10], [20, 5, 40, 20]], np.float32)
    sample = Sample(picture(20, 40), boxes, ("a", "b c"), np.array([[True, False], [True, True]]))
    target = sample_to_target(sample, spans)
    torch.testing.assert_close(target.boxes, torch.tensor([[0.5, 0.25, 1.0, 0.5], [0.75, 0.625, 0.5, 0.75]]))
    assert target.token_map.tolist() == [[0, 1, 0, 0, 0], [0, 1, 0, 1, 1]]


def test_no_boxes(grounding_processor) -> None:
    nothing = Sample(picture(20, 40), np.zeros((0, 4), np.float32), ("a",), np.zeros((0, 1), bool))
    batch = collate([nothing], grounding_processor.tokenizer)
    assert batch.targets[0].boxes.shape == (0, 4)
    assert batch.targets[0].token_map.shape == (0, batch.input_ids.shape[1])


def test_each_sample_has_its_own_text(grounding_processor) -> None:
    tokenizer = grounding_processor.tokenizer
    batch = collate(NAMED_SAMPLES, tokenizer)
    assert batch.pixel_values.shape == (3, 3, 64, 64)
    for row, sample in enumerate(NAMED_SAMPLES):
        real = batch.input_ids[row][batch.token_mask[row]]
        assert tokenizer.decode(real[1:-1]).replace(" .", ".") == ". ".join(sample.prompts) + "."
        for box_row, positive in enumerate(sample.positive):
            named = batch.targets[row].token_map[box_row].bool()
            words = [prompt for prompt, true in zip(sample.prompts, positive, strict=True) if true]
            assert tokenizer.decode(batch.input_ids[row][named]) == " ".join(words)
    assert (batch.input_ids[~batch.token_mask] == tokenizer.pad_token_id).all()


def test_one_size_a_batch(grounding_processor) -> None:
    other = Sample(picture(32, 64), np.zeros((0, 4), np.float32), ("a",), np.zeros((0, 1), bool))
    with pytest.raises(ValueError, match="images of one size"):
        collate([NAMED_SAMPLES[0], other], grounding_processor.tokenizer)


@dataclass
class WideSource(RandomSource):
    aspect: float = 2.0


def steps(processor, **options: object) -> StepBatches:  # type: ignore[no-untyped-def]
    options = {"batch_size": 2, "steps": 20, "phases": [Phase(0.5, (32,)), Phase(1.0, (48, 64))]} | options
    sources = [RandomSource(), WideSource(), RandomSource(0.5)]
    return StepBatches(sources, [0.4, 0.3, 0.3], processor.tokenizer, **options)  # type: ignore[arg-type]


def test_sizes_follow_phase_and_source(grounding_processor) -> None:
    batches = steps(grounding_processor)
    assert len(batches) == 20
    shapes = [tuple(batches[step].pixel_values.shape) for step in range(20)]
    assert {shape[:2] for shape in shapes} == {(2, 3)}
    assert {min(shape[2:]) for shape in shapes[:10]} == {32}
    assert {min(shape[2:]) for shape in shapes[10:]} == {48, 64}
    assert {shape[3] / shape[2] for shape in shapes} == {1.0, 2.0, 0.5}


def test_a_phase_may_have_sources_of_its_own(grounding_processor) -> None:
    phases = [Phase(0.5, (32,)), Phase(1.0, (32,), shares=(0.0, 3.0, 0.0))]
    batches = steps(grounding_processor, phases=phases)
    widths = [batches[step].pixel_values.shape[3] / batches[step].pixel_values.shape[2] for step in range(20)]
    assert set(widths[10:]) == {2.0}
    assert set(widths[:10]) == {1.0, 2.0, 0.5}


def test_phases_follow_the_time_where_it_is_further(grounding_processor) -> None:
    batches = steps(grounding_processor)

    def short_side(step: int) -> int:
        return min(batches[step].pixel_values.shape[2:])

    assert (short_side(9), short_side(10) > 32) == (32, True)
    batches.set_share_done(0.4)
    assert (short_side(0), short_side(10) > 32) == (32, True)
    batches.set_share_done(0.5)
    assert short_side(0) > 32


def test_a_loaders_process_sees_the_time(grounding_processor) -> None:
    batches = steps(grounding_processor)
    loaded = iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=2))
    assert min(next(loaded).pixel_values.shape[2:]) == 32
    batches.set_share_done(0.5)
    shapes = [min(next(loaded).pixel_values.shape[2:]) for _ in range(8)]
    assert all(side > 32 for side in shapes[3:])


def test_a_step_is_always_the_same(grounding_processor) -> None:
    one, two = steps(grounding_processor)[7], steps(grounding_processor)[7]
    assert torch.equal(one.pixel_values, two.pixel_values)
    assert torch.equal(one.input_ids, two.input_ids)
    assert not torch.equal(one.pixel_values, steps(grounding_processor, seed=1)[7].pixel_values[:, :, :1, :1])
    assert not torch.equal(steps(grounding_processor)[3].pixel_values[..., :4], one.pixel_values[..., :4])


def test_each_source_has_its_weight_of_positives(grounding_processor) -> None:
    batches = steps(grounding_processor, alphas=(0.2, 0.4, 0.6))
    alphas = {1.0: 0.2, 2.0: 0.4, 0.5: 0.6}
    for step in range(20):
        height, width = batches[step].pixel_values.shape[2:]
        assert batches[step].alpha == alphas[width / height]
        assert batches[step].to(torch.device("cpu")).alpha == batches[step].alpha
    assert steps(grounding_processor)[0].alpha is None


def test_processes_see_other_samples_of_the_same_size(grounding_processor) -> None:
    first, second = (steps(grounding_processor, rank=rank)[11] for rank in (0, 1))
    assert first.pixel_values.shape == second.pixel_values.shape
    assert not torch.equal(first.pixel_values, second.pixel_values)
