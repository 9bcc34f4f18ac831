"""The tiny detector's configuration, vocabulary and start values."""

from pathlib import Path

import pytest
import torch

from models.grounding_dino.spans import prompt_tokens
from models.training.batches import collate
from models.training.criterion import grounding_loss
from models.training.forward import DenoisingTrainer
from models.training.referring import WORDS
from models.training.scenes import PAIRS
from models.training.tiny import build_tiny, deepen_decoder, tiny_processor, tiny_vocabulary, tiny_words
from tests.grounding_models import NAMED_SAMPLES


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
    deeper = deepen_decoder(model, 5)
    assert len(deeper.model.decoder.layers) == deeper.config.decoder_layers == 5
    assert model.config.decoder_layers == 3
    old, new = dict(model.named_parameters()), dict(deeper.named_parameters())
    assert all(torch.equal(value, new[name]) for name, value in old.items())
    added = {name: value for name, value in new.items() if name not in old}
    assert all(
        torch.equal(v, old[n.replace("layers.3", "layers.2").replace("layers.4", "layers.2")]) for n, v in added.items()
    )
    assert {name.split(".")[3] for name in added} == {"3", "4"}, "box and class heads are shared"
    assert sum(value.numel() for value in new.values()) * 4 <= 12e6, "the bundled file's limit"
    assert all(value.requires_grad for value in new.values())
    with pytest.raises(ValueError, match="has 3 layers; it cannot be deepened to 2"):
        deepen_decoder(model, 2)


def test_it_starts_at_a_loss_from_which_it_trains(processor, grounding_processor) -> None:
    """Tens, not the thousands of an unscaled dot product."""
    batch = collate(NAMED_SAMPLES, grounding_processor.tokenizer)
    trainer = DenoisingTrainer(build_tiny())
    with torch.no_grad():
        output = trainer(batch, torch.Generator().manual_seed(0))
    terms = grounding_loss(output.decoded, output.selection, batch.targets, output.denoised, output.denoising)
    assert 5 < float(torch.stack(list(terms.values())).sum()) < 150
