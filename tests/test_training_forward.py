"""The forward pass of training: denoising queries beside the matching ones, and nothing leaks between them."""

import copy
from dataclasses import replace

import pytest
import torch

from models.grounding_dino.features import GroundingModel
from models.grounding_dino.forward import encode_image, encode_text, predict
from models.training.batches import collate
from models.training.criterion import grounding_loss
from models.training.denoising import DenoisingConfig
from models.training.forward import Batch, DenoisingTrainer, TrainingOutput
from models.training.matcher import Target
from tests.grounding_models import NAMED_SAMPLES

OFF = DenoisingConfig(queries=0)
TWO_GROUPS = DenoisingConfig(queries=6, max_groups=2)


@pytest.fixture
def batch(grounding_processor) -> Batch:
    return collate(NAMED_SAMPLES, grounding_processor.tokenizer)


def run(model: GroundingModel, batch: Batch, config: DenoisingConfig, seed: int = 0) -> TrainingOutput:
    torch.manual_seed(0)
    with torch.no_grad():
        return DenoisingTrainer(model, config).eval()(batch, torch.Generator().manual_seed(seed))


def test_without_denoising_it_is_the_detectors_forward(grounding_model, batch: Batch) -> None:
    output = run(grounding_model, batch, OFF)
    assert output.denoised is None
    assert output.denoising is None
    text = encode_text(grounding_model, batch.input_ids, batch.token_mask)
    with torch.no_grad():
        logits, boxes = predict(grounding_model, encode_image(grounding_model, batch.pixel_values), text)
    torch.testing.assert_close(output.decoded.boxes[-1], boxes)
    torch.testing.assert_close(output.decoded.logits[-1], logits)


@pytest.mark.parametrize("contrastive", [True, False])
def test_matching_queries_do_not_notice_denoising(grounding_model, batch: Batch, contrastive: bool) -> None:
    plain = run(grounding_model, batch, OFF)
    outputs = [run(grounding_model, batch, replace(TWO_GROUPS, contrastive=contrastive), seed) for seed in (0, 1)]
    for output in outputs:
        torch.testing.assert_close(output.decoded.boxes, plain.decoded.boxes, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.decoded.logits, plain.decoded.logits, atol=1e-4, rtol=1e-4)
    one, two = (output.denoised for output in outputs)
    assert one is not None
    assert two is not None
    assert (one.boxes - two.boxes).abs().max() > 1e-3, "other noise must give other answers"


def test_groups_do_not_see_each_other(grounding_model, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.training import forward

    make = forward.make_denoising
    before = run(grounding_model, batch, TWO_GROUPS)
    assert before.denoising is not None
    assert before.denoised is not None
    assert before.denoising.groups == 2
    half = before.denoising.references.shape[1] // 2

    def second_half_perturbed(*arguments):  # type: ignore[no-untyped-def]
        denoising = make(*arguments)
        assert denoising is not None
        references, prompts = denoising.references.clone(), denoising.prompts.clone()
        references[:, half:] = 0.37
        prompts[:, half:] = prompts[:, half:].roll(1, -1)
        return replace(denoising, references=references, prompts=prompts)

    monkeypatch.setattr(forward, "make_denoising", second_half_perturbed)
    after = run(grounding_model, batch, TWO_GROUPS)
    assert after.denoised is not None
    torch.testing.assert_close(
        after.denoised.boxes[:, :, :half], before.denoised.boxes[:, :, :half], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(after.decoded.boxes, before.decoded.boxes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.decoded.logits, before.decoded.logits, atol=1e-4, rtol=1e-4)
    assert (after.denoised.boxes[:, :, half:] - before.denoised.boxes[:, :, half:]).abs().max() > 1e-3


def test_shapes(grounding_model, batch: Batch) -> None:
    output = run(grounding_model, batch, TWO_GROUPS)
    tokens = batch.input_ids.shape[1]
    assert output.decoded.boxes.shape == (3, 3, 12, 4)
    assert output.decoded.logits.shape == (3, 3, 12, tokens)
    assert output.denoised is not None
    assert output.denoised.boxes.shape == (3, 3, 2 * 2 * 3, 4)
    assert (output.decoded.logits == -torch.inf).any(), "texts of a batch are padded"


def loss_of(model: GroundingModel, batch: Batch, config: DenoisingConfig) -> tuple[DenoisingTrainer, float]:
    trainer = DenoisingTrainer(copy.deepcopy(model).requires_grad_(True), config)
    output = trainer(batch, torch.Generator().manual_seed(0))
    terms = grounding_loss(output.decoded, output.selection, batch.targets, output.denoised, output.denoising)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    return trainer, total.item()


def test_every_weight_is_trained(grounding_model, batch: Batch) -> None:
    """Else it is left as it was by chance, or DistributedDataParallel waits for it."""
    trainer, _ = loss_of(grounding_model, batch, TWO_GROUPS)
    idle = {
        name
        for name, parameter in trainer.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum()
    }
    # Words that are not in the batch have rows, not tensors, without gradient; published models have unused parts.
    known = ("pooler", "relative_position", "hidden_states_norms", "embeddings.norm", "backbone.conv_encoder")
    assert not {name for name in idle if not any(part in name for part in known)}
    assert any(p.grad is not None and p.grad.abs().sum() for n, p in trainer.named_parameters() if "conv_encoder" in n)


def test_a_batch_without_objects_trains(grounding_model, batch: Batch) -> None:
    empty = [Target(target.boxes[:0], target.token_map[:0]) for target in batch.targets]
    trainer, total = loss_of(grounding_model, replace(batch, targets=empty), TWO_GROUPS)
    assert 0 < total < float("inf")
    gradients = [p.grad for p in trainer.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_batch_moves_as_a_whole(batch: Batch) -> None:
    moved = batch.to(torch.device("meta"))
    tensors = [moved.pixel_values, moved.input_ids, moved.token_mask, *moved.span_maps]
    tensors += [target.boxes for target in moved.targets] + [target.token_map for target in moved.targets]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
