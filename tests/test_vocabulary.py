from pathlib import Path

import pytest
import torch

from models.grounding_dino.load import read_grounding_dino, write_grounding_dino
from models.training.vocabulary import extend_vocabulary, forget_words, has_whole_words, unknown_words
from tests.tiny_training import small_model, small_processor


def test_unknown_words_are_those_of_the_tokenizers_own_splitting(tmp_path: Path) -> None:
    tokenizer = small_processor(tmp_path).tokenizer
    assert has_whole_words(tokenizer)
    assert unknown_words(tokenizer, ["Red circle", "RBC-2", "röd  circle", "rbc"]) == ["rbc", "-", "2", "rod"]
    assert unknown_words(tokenizer, []) == []


def test_new_words_survive_saving_and_keep_all_else(tmp_path: Path) -> None:
    model, processor = small_model(), small_processor(tmp_path / "words")
    weight = model.model.text_backbone.embeddings.word_embeddings.weight
    before = weight.detach().clone()
    extended, words = extend_vocabulary(model, processor, ["platelet", "red blood cell"], seed=3)
    assert words == ("platelet", "blood", "cell")
    write_grounding_dino(tmp_path / "model", model, extended)
    again, loaded = read_grounding_dino(tmp_path / "model")
    tokenizer, old = loaded.tokenizer, processor.tokenizer
    assert len(tokenizer.get_vocab()) == len(old.get_vocab())
    ids = tokenizer.encode("red platelet . blood cell .", add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["red", "platelet", ".", "blood", "cell", "."]
    assert tokenizer.encode("red circle . ?") == old.encode("red circle . ?")
    places = tokenizer.convert_tokens_to_ids(list(words))
    assert places == sorted(places)
    changed = (again.model.text_backbone.embeddings.word_embeddings.weight != before).any(dim=1)
    assert changed.nonzero()[:, 0].tolist() == places
    known = before[tokenizer.convert_tokens_to_ids(["red", "circle", "square"])]
    assert weight[places].std() < 3 * known.std()
    assert torch.equal(again.model.special_tokens, model.model.special_tokens)


def test_the_same_seed_gives_the_same_embeddings(tmp_path: Path) -> None:
    weights = []
    for number in range(2):
        model, processor = small_model(), small_processor(tmp_path / str(number))
        extend_vocabulary(model, processor, ["platelet"], seed=5)
        weights.append(model.model.text_backbone.embeddings.word_embeddings.weight)
    assert torch.equal(*weights)


def test_known_words_change_nothing(tmp_path: Path) -> None:
    model, processor = small_model(), small_processor(tmp_path)
    assert extend_vocabulary(model, processor, ["red circle"]) == (processor, ())


def test_a_tokenizer_of_word_pieces_is_left_as_it_is(tmp_path: Path) -> None:
    model, processor = small_model(), small_processor(tmp_path, ("red", "plate", "##let"))
    assert not has_whole_words(processor.tokenizer)
    assert extend_vocabulary(model, processor, ["platelet"]) == (processor, ())


def test_too_many_words_are_refused(tmp_path: Path) -> None:
    model, processor = small_model(), small_processor(tmp_path)
    with pytest.raises(ValueError, match=r"1600 words that the detector does not know \(w0, w1, .*free places"):
        extend_vocabulary(model, processor, [f"w{number}" for number in range(1600)])


def test_forgotten_words_are_new_again(tmp_path: Path) -> None:
    model, processor = small_model(), small_processor(tmp_path, ("red", "blood", "cell"))
    places = {word: processor.tokenizer.get_vocab()[word] for word in ("red", "blood", "cell")}
    without = forget_words(processor, ["blood", "cell"])
    assert unknown_words(without.tokenizer, ["red blood cell"]) == ["blood", "cell"]
    assert without.tokenizer.get_vocab()["red"] == places["red"]
    assert processor.tokenizer.get_vocab()["blood"] == places["blood"]
    again, words = extend_vocabulary(model, without, ["red blood cell"])
    assert words == ("blood", "cell")
    assert set(again.tokenizer("blood cell")["input_ids"][1:-1]) == {places["blood"], places["cell"]}
    with pytest.raises(ValueError, match="no words platelet"):
        forget_words(processor, ["blood", "platelet"])
