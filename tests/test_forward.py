"""Our forward pass against transformers' own, and what each of its steps promises."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.grounding_dino.features import GroundingModel
from models.grounding_dino.forward import decode, encode_image, encode_text, enhance, phrase_masks, predict
from models.grounding_dino.query_selection import start_queries
from models.grounding_dino.spans import stack_texts
from tests.grounding_models import PROMPTS_20, pixels, text_of

TEXTS = {1: PROMPTS_20[:1], 5: PROMPTS_20[:5], 20: PROMPTS_20}
SPECIAL = torch.tensor([101, 102, 1012, 1029])


def ours(model: GroundingModel, images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return predict(model, encode_image(model, images), encode_text(model, ids, mask))


def theirs(model: GroundingModel, images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        out = model(
            pixel_values=images, input_ids=ids, attention_mask=mask.long(), token_type_ids=torch.zeros_like(ids)
        )
    return out.logits[..., : ids.shape[1]], out.pred_boxes


def sorted_rows(logits: Tensor, boxes: Tensor) -> Tensor:
    """Return one image's queries as a set: rounding may order them differently."""
    rows = torch.cat([boxes, logits.nan_to_num(neginf=0.0)], dim=-1)
    return rows[rows[:, 0].argsort(stable=True)]


@pytest.mark.parametrize("count", [1, 5, 20])
@pytest.mark.parametrize("images", [1, 2])
def test_parity_with_transformers(grounding_model, grounding_processor, count: int, images: int) -> None:
    text = text_of(grounding_processor, TEXTS[count])
    ids, mask = stack_texts([text] * images, 0)
    batch = pixels(images)
    logits, boxes = ours(grounding_model, batch, ids, mask)
    their_logits, their_boxes = theirs(grounding_model, batch, ids, mask)
    for image in range(images):
        mine, other = sorted_rows(logits[image], boxes[image]), sorted_rows(their_logits[image], their_boxes[image])
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    assert boxes.std(dim=1).min() > 1e-3, "all queries say the same: the comparison would mean nothing"
    assert logits.std(dim=1).min() > 1e-2
    assert logits.std(dim=2).min() > 1e-3


def test_the_prediction_is_the_last_layers(grounding_model, grounding_processor) -> None:
    """What is trained, layer by layer with transformers' modules, is what is predicted."""
    ids, mask = stack_texts([text_of(grounding_processor, TEXTS[count]) for count in (1, 20)], 0)
    with torch.no_grad():
        image, text = encode_image(grounding_model, pixels(2)), encode_text(grounding_model, ids, mask)
        encoded = enhance(grounding_model, image, text)
        start = start_queries(grounding_model, encoded)
        trained = decode(grounding_model, encoded, start.content, start.references)
        logits, boxes = predict(grounding_model, image, text)
    assert trained.boxes[-1].std(dim=1).min() > 1e-3
    assert (trained.boxes[-1] - trained.boxes[-2]).abs().max() > 1e-3
    torch.testing.assert_close(logits, trained.logits[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(boxes, trained.boxes[-1], atol=1e-5, rtol=1e-5)


def test_parity_with_texts_of_different_lengths(grounding_model, grounding_processor) -> None:
    texts = [text_of(grounding_processor, TEXTS[count]) for count in (1, 5, 20)]
    ids, mask = stack_texts(texts, 0)
    batch = pixels(3)
    logits, boxes = ours(grounding_model, batch, ids, mask)
    their_logits, their_boxes = theirs(grounding_model, batch, ids, mask)
    for image in range(3):
        mine, other = sorted_rows(logits[image], boxes[image]), sorted_rows(their_logits[image], their_boxes[image])
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_image_and_text_change_the_answer(grounding_model, grounding_processor) -> None:
    ids, mask = stack_texts([text_of(grounding_processor, ("red circle", "blue square"))], 0)
    other_ids, _ = stack_texts([text_of(grounding_processor, ("red circle", "blue star"))], 0)
    logits, boxes = ours(grounding_model, pixels(1), ids, mask)
    other_logits, other_boxes = ours(grounding_model, pixels(1, seed=5), ids, mask)
    assert (boxes - other_boxes).abs().max() > 1e-3
    assert (logits - other_logits).abs().max() > 1e-2
    _, other_boxes = ours(grounding_model, pixels(1), other_ids, mask)
    assert (boxes - other_boxes).abs().max() > 1e-4


def test_a_batch_equals_its_images_one_by_one(grounding_model, grounding_processor) -> None:
    text = text_of(grounding_processor, TEXTS[5])
    batch = pixels(4, 64, 96)
    logits, boxes = ours(grounding_model, batch, *stack_texts([text] * 4, 0))
    for image in range(4):
        alone = ours(grounding_model, batch[image : image + 1], *stack_texts([text], 0))
        single = sorted_rows(alone[0][0], alone[1][0])
        torch.testing.assert_close(sorted_rows(logits[image], boxes[image]), single, atol=1e-5, rtol=1e-5)


def test_text_padding_changes_nothing(grounding_model, grounding_processor) -> None:
    short = text_of(grounding_processor, TEXTS[1])
    long = text_of(grounding_processor, TEXTS[20])
    ids, mask = stack_texts([short, long], 0)
    assert not mask[0].all()
    logits, boxes = ours(grounding_model, pixels(1).expand(2, -1, -1, -1), ids, mask)
    alone_logits, alone_boxes = ours(grounding_model, pixels(1), *stack_texts([short], 0))
    assert (logits[0, :, len(short) :] == -torch.inf).all()
    padded = sorted_rows(logits[0, :, : len(short)], boxes[0])
    torch.testing.assert_close(padded, sorted_rows(alone_logits[0], alone_boxes[0]), atol=1e-5, rtol=1e-5)


def text_tokens(model: GroundingModel, processor, prompts: tuple[str, ...], level: str) -> Tensor:  # type: ignore[no-untyped-def]
    with torch.inference_mode():
        return encode_text(model, *stack_texts([text_of(processor, prompts)], 0), level).tokens[0]  # type: ignore[arg-type]


def test_no_attention_crosses_from_phrase_to_phrase(grounding_model, grounding_processor) -> None:
    prompts = ("red circle", "blue square", "green star")
    (start, end) = text_of(grounding_processor, prompts).spans[1]
    one = text_tokens(grounding_model, grounding_processor, prompts, "sub-sentence")
    two = text_tokens(grounding_model, grounding_processor, ("red circle", "blue star", "green star"), "sub-sentence")
    changed = torch.arange(len(one))
    inside = (changed >= start) & (changed <= end)  # the dot that ends a phrase belongs to it
    assert torch.equal(one[~inside], two[~inside])
    assert (one[start] - two[start]).abs().max() > 1e-3, "the first word must see that the second changed"


def test_word_level_hides_the_neighbour_and_sentence_level_shows_all(grounding_model, grounding_processor) -> None:
    prompts, other = ("red circle", "blue square"), ("red circle", "blue star")
    first, blue, last = 1, 4, 5
    words, changed = (text_tokens(grounding_model, grounding_processor, texts, "word") for texts in (prompts, other))
    assert torch.equal(words[blue], changed[blue])
    assert not torch.equal(words[last], changed[last])
    whole, changed = (
        text_tokens(grounding_model, grounding_processor, texts, "sentence") for texts in (prompts, other)
    )
    assert (whole[first] - changed[first]).abs().max() > 1e-4


def test_phrase_masks_by_hand() -> None:
    ids = torch.tensor([[101, 1, 2, 1012, 3, 1012, 102, 0]])
    real = ids != 0
    mask, positions = phrase_masks(ids, real, SPECIAL)
    expected = torch.eye(8, dtype=torch.bool)
    expected[1:4, 1:4] = True
    expected[4:6, 4:6] = True
    assert torch.equal(mask[0], expected)
    assert positions[0].tolist() == [0, 0, 1, 2, 0, 1, 0, 0]
    mask, positions = phrase_masks(ids, real, SPECIAL, "word")
    assert torch.equal(mask[0], torch.eye(8, dtype=torch.bool))
    mask, positions = phrase_masks(ids, real, SPECIAL, "sentence")
    assert mask[0, :7, :7].all()
    assert not mask[0, :7, 7].any()
    assert positions[0].tolist() == list(range(8))
    with pytest.raises(ValueError, match="text level must be"):
        phrase_masks(ids, real, SPECIAL, "paragraph")  # type: ignore[arg-type]


def test_a_text_beyond_the_limit_is_refused(grounding_models) -> None:
    ids = torch.ones((1, 257), dtype=torch.long)
    with pytest.raises(ValueError, match="257 tokens exceeds the model's 256"):
        encode_text(grounding_models["mm-grounding-dino"], ids, ids.bool())


def test_fewer_image_tokens_than_queries(grounding_models, grounding_processor) -> None:
    ids, mask = stack_texts([text_of(grounding_processor, TEXTS[5])], 0)
    logits, boxes = ours(grounding_models["mm-grounding-dino"], pixels(1, 8, 40), ids, mask)
    assert 0 < boxes.shape[1] < 12
    assert torch.isfinite(logits).all()
    assert torch.isfinite(boxes).all()


def test_one_image_for_many_texts(grounding_model, grounding_processor) -> None:
    texts = [text_of(grounding_processor, TEXTS[1]), text_of(grounding_processor, PROMPTS_20[1:2])]
    with torch.inference_mode():
        features = encode_image(grounding_model, pixels(1))
        together = predict(grounding_model, features.expand(2), encode_text(grounding_model, *stack_texts(texts, 0)))
        for row, text in enumerate(texts):
            alone = predict(grounding_model, features, encode_text(grounding_model, *stack_texts([text], 0)))
            one, two = (sorted_rows(logits[i], boxes[i]) for (logits, boxes), i in ((together, row), (alone, 0)))
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def forward_with_gradient(model, processor, look_forward_twice: bool = False):  # type: ignore[no-untyped-def]
    ids, mask = stack_texts([text_of(processor, TEXTS[5])], 0)
    encoded = enhance(model, encode_image(model, pixels(1)), encode_text(model, ids, mask))
    start = start_queries(model, encoded)
    decoded = decode(model, encoded, start.content, start.references, look_forward_twice=look_forward_twice)
    return start.selection, decoded


def gradient_of(model: GroundingModel, loss: Tensor, part: str) -> float:
    model.zero_grad(set_to_none=True)
    loss.backward()
    norms = [p.grad.abs().sum() for name, p in model.named_parameters() if name.startswith(part) and p.grad is not None]
    model.zero_grad(set_to_none=True)
    return float(torch.stack(norms).sum()) if norms else 0.0


def test_query_selection_trains_the_encoders_heads(grounding_model, grounding_processor) -> None:
    head = "model.encoder_output_bbox_embed"
    selection, decoded = forward_with_gradient(grounding_model, grounding_processor)
    assert gradient_of(grounding_model, selection.boxes_logit.sigmoid().sum(), head) > 0
    selection, decoded = forward_with_gradient(grounding_model, grounding_processor)
    assert gradient_of(grounding_model, decoded.boxes.sum(), head) == 0, "anchors must not carry the decoder's gradient"
    selection, decoded = forward_with_gradient(grounding_model, grounding_processor)
    assert gradient_of(grounding_model, selection.chosen_logits().sum(), "model.encoder.") > 0


def test_look_forward_twice_changes_gradients_and_no_values(grounding_models, grounding_processor) -> None:
    model = grounding_models["mm-grounding-dino"]
    _, once = forward_with_gradient(model, grounding_processor)
    _, twice = forward_with_gradient(model, grounding_processor, look_forward_twice=True)
    assert torch.equal(once.boxes, twice.boxes)
    assert torch.equal(once.logits, twice.logits)
    stopped = torch.autograd.grad(once.boxes[1].sum(), first_layer_head(model), allow_unused=True)
    flowing = torch.autograd.grad(twice.boxes[1].sum(), first_layer_head(model), allow_unused=True)
    assert difference(stopped, flowing) > 1e-4


def test_learned_anchors_are_trained_by_the_decoder_alone(grounding_models, grounding_processor) -> None:
    model = copy.deepcopy(grounding_models["mm-grounding-dino"])
    model.config.two_stage = False
    model.model.reference_points = nn.Embedding(model.config.num_queries, 4)
    selection, decoded = forward_with_gradient(model, grounding_processor)
    assert selection is None
    assert gradient_of(model, decoded.boxes[0].sum(), "model.reference_points") > 0
    _, decoded = forward_with_gradient(model, grounding_processor)
    assert gradient_of(model, decoded.boxes.sum(), "model.encoder_output_bbox_embed") == 0
    with torch.inference_mode():
        text = encode_text(model, *stack_texts([text_of(grounding_processor, TEXTS[5])], 0))
        _, boxes = predict(model, encode_image(model, pixels(1)), text)
        model.model.reference_points.weight += 1
        _, moved = predict(model, encode_image(model, pixels(1)), text)
    assert (boxes - moved).abs().max() > 1e-2


def first_layer_head(model: GroundingModel) -> list[Tensor]:
    return list(model.model.decoder.bbox_embed[0].parameters())


def difference(one: tuple[Tensor | None, ...], two: tuple[Tensor | None, ...]) -> float:
    filled = [[torch.zeros(()) if tensor is None else tensor for tensor in tensors] for tensors in (one, two)]
    return max(float((a - b).abs().max()) for a, b in zip(*filled, strict=True))


def test_blocked_queries_do_not_leak(grounding_model, grounding_processor) -> None:
    ids, mask = stack_texts([text_of(grounding_processor, TEXTS[5])], 0)
    with torch.inference_mode():
        text = encode_text(grounding_model, ids, mask)
        encoded = enhance(grounding_model, encode_image(grounding_model, pixels(1)), text)
        start = start_queries(grounding_model, encoded)
        content, references = start.content, start.references
        plain = decode(grounding_model, encoded, content, references)
        blocked = torch.zeros((15, 15), dtype=torch.bool)
        blocked[3:, :3] = True
        extra, places = torch.randn(1, 3, 32), torch.full((1, 3, 4), 0.4)
        added = decode(
            grounding_model, encoded, torch.cat([extra, content], 1), torch.cat([places, references], 1), blocked
        )
    torch.testing.assert_close(added.boxes[:, :, 3:], plain.boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(added.logits[:, :, 3:], plain.logits, atol=1e-4, rtol=0)
