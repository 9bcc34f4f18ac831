"""The tiny detector's configuration, vocabulary and start values."""

from pathlib import Path

import pytest
import torch
from transformers import MMGroundingDinoForObjectDetection

from models.grounding_dino.forward import encode_image, encode_text, predict
from models.grounding_dino.spans import prompt_tokens, stack_texts
from models.training.batches import collate
from models.training.criterion import grounding_loss
from models.training.forward import DenoisingTrainer
from models.training.loop import training_loss
from models.training.referring import WORDS
from models.training.scenes import PAIRS
from models.training.tiny import build_tiny, grow_decoder, tiny_config, tiny_processor, tiny_vocabulary, tiny_words
from models.training.widen import widen
from tests.grounding_models import NAMED_SAMPLES, pixels, text_of


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return tiny_processor(tiny_words(), tmp_path_factory.mktemp("tiny"))


def test_special_tokens_stand_where_berts_do() -> None:
    """The phrase mask knows delimiters by these ids; elsewhere words of a phrase would not see each other."""
    vocabulary = tiny_vocabulary(["red", "circle"])
    places = {token: vocabulary.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?")}
    assert places == {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    assert vocabulary[1:3] == ["red", "circle"]
    assert len(set(vocabulary)) == len(vocabulary) == 1536


def test_a_vocabulary_has_limits() -> None:
    many = [f"word{row}" for row in range(1529)]
    assert set(many) <= set(tiny_vocabulary(many))
    with pytest.raises(ValueError, match="holds 1529 words, not 1530"):
        tiny_vocabulary([*many, "one more"])
    with pytest.raises(ValueError, match="a word twice"):
        tiny_vocabulary(["red", "red"])


def test_all_words_of_training_are_known(processor) -> None:
    tokenizer = processor.tokenizer
    for text in [*PAIRS, *WORDS, "red blood cell", "white blood cell", "platelet"]:
        ids = prompt_tokens(tokenizer, text)
        assert tokenizer.unk_token_id not in ids, text
        assert len(ids) == len(text.split()), text


def test_new_words_keep_the_old_ones_ids(tmp_path: Path, processor) -> None:
    words = [*tiny_words(), "zebra"]
    grown = tiny_processor(words, tmp_path).tokenizer
    for word in tiny_words():
        assert grown.convert_tokens_to_ids(word) == processor.tokenizer.convert_tokens_to_ids(word)
    assert grown.convert_tokens_to_ids("zebra") != grown.unk_token_id


def test_the_phrase_mask_knows_the_vocabularys_delimiters(processor) -> None:
    model = build_tiny()
    ids = processor.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    assert sorted(model.model.special_tokens.tolist()) == sorted(ids)


def test_start_values() -> None:
    model = build_tiny()
    assert sum(parameter.numel() for parameter in model.parameters()) * 4 <= 12e6, "the bundled file's limit"
    assert all(parameter.requires_grad for parameter in model.parameters())
    named = dict(model.named_parameters())
    gates = [value for name, value in named.items() if name.endswith(("vision_param", "text_param"))]
    biases = [value for name, value in named.items() if "class_embed" in name and name.endswith("bias")]
    assert gates
    assert biases
    assert all((gate == 0.1).all() for gate in gates)
    assert all((bias == -4).all() for bias in biases)
    same, other = build_tiny(), build_tiny(seed=1)
    assert all(torch.equal(value, named[name]) for name, value in same.named_parameters())
    assert any(not torch.equal(value, named[name]) for name, value in other.named_parameters())


def test_a_deeper_decoder_begins_with_copies_of_the_last_layer() -> None:
    model = build_tiny()
    deeper = grow_decoder(model, layers=5)
    assert len(deeper.model.decoder.layers) == deeper.config.decoder_layers == 5
    assert model.config.decoder_layers == 3
    old, new = dict(model.named_parameters()), dict(deeper.named_parameters())
    assert all(torch.equal(value, new[name]) for name, value in old.items())
    added = {name: value for name, value in new.items() if name not in old}
    assert all(
        torch.equal(v, old[n.replace("layers.3", "layers.2").replace("layers.4", "layers.2")]) for n, v in added.items()
    )
    assert {name.split(".")[3] for name in added} == {"3", "4"}, "box and class heads are shared"
    assert all(value.requires_grad for value in new.values())


def test_the_largest_detector_fits_into_the_bundled_file() -> None:
    grown = widen(grow_decoder(build_tiny(), layers=4))
    assert sum(value.numel() for value in grown.parameters()) * 2 <= 10e6


def test_twice_the_width_begins_as_the_narrow_detector(grounding_processor) -> None:
    model = grow_decoder(build_tiny(), layers=4).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "backbone" not in name:
                value.add_(torch.randn(value.shape, generator=draw) * 0.05)
    wide = widen(model).eval()
    assert (model.config.d_model, wide.config.d_model) == (64, 128)
    text = text_of(grounding_processor, ("red circle", "blue square", "platelet"))
    ids, mask = stack_texts([text, text])

    def answers(of: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            logits, boxes = predict(of, encode_image(of, pixels(2, 96, 128)), encode_text(of, ids, mask))[:2]
        return logits[logits > -torch.inf], boxes

    for narrow, widened in zip(answers(model), answers(wide), strict=True):
        assert narrow.std() > 0.01
        torch.testing.assert_close(narrow, widened, atol=1e-4, rtol=1e-4)


def test_the_two_channels_of_one_part_in_training(grounding_processor) -> None:
    wide = widen(build_tiny())
    trainer = DenoisingTrainer(wide)
    batch = collate(NAMED_SAMPLES, grounding_processor.tokenizer)
    sum(training_loss(trainer, batch, torch.Generator().manual_seed(0), torch.device("cpu")).values()).backward()
    for name in ("model.encoder.layers.0.deformable_layer.fc1.weight", "model.decoder.layers.0.fc1.weight"):
        columns = wide.get_parameter(name)
        assert (columns[:, 0] - columns[:, 2]).abs().min() > 0
    rows = wide.get_parameter("model.decoder.layers.0.fc2.weight")
    assert torch.equal(rows[0], rows[2])
    assert rows.grad is not None
    assert not torch.equal(rows.grad[0], rows.grad[2])


def test_an_odd_width_cannot_double() -> None:
    config = tiny_config()
    config.d_model = 32
    with pytest.raises(ValueError, match="of width 32 cannot be widened"):
        widen(MMGroundingDinoForObjectDetection(config))


def test_a_decoder_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="3 layers cannot grow to 2"):
        grow_decoder(build_tiny(), layers=2)


def test_it_starts_at_a_loss_from_which_it_trains(processor, grounding_processor) -> None:
    """Tens, not the thousands of an unscaled dot product."""
    batch = collate(NAMED_SAMPLES, grounding_processor.tokenizer)
    trainer = DenoisingTrainer(build_tiny())
    with torch.no_grad():
        output = trainer(batch, torch.Generator().manual_seed(0))
    terms = grounding_loss(output.decoded, output.selection, batch.targets, output.denoised, output.denoising)
    assert 5 < float(torch.stack(list(terms.values())).sum()) < 150
