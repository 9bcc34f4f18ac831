"""Encoded prompts: put together they are the text encoder's, and what is kept on disk is what was encoded."""

from pathlib import Path

import pytest
import torch

from models.grounding_dino.forward import encode_image, encode_text
from models.grounding_dino.passes import join_texts, run_passes
from models.grounding_dino.spans import stack_texts
from models.grounding_dino.text_cache import TextCache, default_cache_folder
from models.grounding_dino.texts import PromptTexts
from tests.grounding_models import PROMPTS_20, pixels, text_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("level", ["sub-sentence", "word", "sentence"])
def test_composed_features_are_the_text_encoders(grounding_model, grounding_processor, level: str) -> None:
    texts = PromptTexts(grounding_model, grounding_processor.tokenizer, PROMPTS_20, level, CPU)  # type: ignore[arg-type]
    for members in ([3], [19, 0, 18, 7], list(range(20))):
        with torch.inference_mode():
            composed = texts.compose(members)
            text = text_of(grounding_processor, tuple(PROMPTS_20[index] for index in members))
            whole = encode_text(grounding_model, *stack_texts([text]), level)  # type: ignore[arg-type]
        assert composed.text == text
        assert composed.prompts == members
        torch.testing.assert_close(composed.features.tokens, whole.tokens, atol=1e-5, rtol=0)
        for name in ("token_mask", "phrase_mask", "position_ids"):
            assert torch.equal(getattr(composed.features, name), getattr(whole, name)), name


def test_passes_together_are_passes_alone(grounding_model, grounding_processor, monkeypatch) -> None:
    """Also on two images, and after memory ran out at all of them at once."""
    texts = PromptTexts(grounding_model, grounding_processor.tokenizer, PROMPTS_20, "sub-sentence", CPU)
    passes = [texts.compose(members) for members in ([0, 1, 2], [3], list(range(4, 20)))]
    import models.grounding_dino.passes as module

    asked = []
    plain = module.predict

    def predict(model, image, text, *precision):  # type: ignore[no-untyped-def]
        asked.append(len(image.tokens))
        if len(image.tokens) > 4:
            raise torch.OutOfMemoryError
        return plain(model, image, text, *precision)

    with torch.inference_mode():
        image = encode_image(grounding_model, pixels(2))
        alone = list(run_passes(grounding_model, image, passes))
        monkeypatch.setattr(module, "predict", predict)
        monkeypatch.setattr(module, "passes_at_once", lambda image: 4)
        together = list(run_passes(grounding_model, image, passes))
    assert asked == [6, 2, 2, 2]
    for one, two in zip(alone, together, strict=True):
        assert one.prompts == two.prompts
        for name in ("scores", "tops", "boxes"):
            assert abs(getattr(one, name) - getattr(two, name)).max() < 1e-5, name


def test_joined_texts_are_padded(grounding_model, grounding_processor) -> None:
    texts = PromptTexts(grounding_model, grounding_processor.tokenizer, PROMPTS_20, "sub-sentence", CPU)
    short, long = texts.compose([0]), texts.compose([1, 2])
    joined = join_texts([short, long], 2)
    assert joined.tokens.shape[:2] == (4, len(long.text))
    assert joined.token_mask.sum(1).tolist() == [len(short.text)] * 2 + [len(long.text)] * 2
    assert joined.phrase_mask.diagonal(dim1=1, dim2=2).all(), "a token that sees nothing would become NaN"


@pytest.fixture
def encoded(grounding_models, monkeypatch) -> list[int]:  # type: ignore[no-untyped-def]
    """Count the calls of the text encoder."""
    import models.grounding_dino.texts as module

    calls: list[int] = []
    plain = module.encode_text

    def count(model, ids, mask, level):  # type: ignore[no-untyped-def]
        calls.append(len(ids))
        return plain(model, ids, mask, level)

    monkeypatch.setattr(module, "encode_text", count)
    return calls


def features(model, processor, prompts: tuple[str, ...], cache: TextCache) -> torch.Tensor:  # type: ignore[no-untyped-def]
    texts = PromptTexts(model, processor.tokenizer, prompts, "sub-sentence", CPU, cache)
    return texts.compose(range(len(prompts))).features.tokens


def test_the_cache_saves_the_encoding(
    grounding_models, grounding_processor, encoded: list[int], tmp_path: Path
) -> None:
    model = grounding_models["grounding-dino"]
    cache = TextCache(tmp_path / "texts", lambda: "weights", least=2)
    first = features(model, grounding_processor, PROMPTS_20, cache)
    count = len(encoded)
    assert count > 0
    assert torch.equal(features(model, grounding_processor, PROMPTS_20, cache), first)
    assert len(encoded) == count
    features(model, grounding_processor, PROMPTS_20[:5], cache)
    features(model, grounding_processor, PROMPTS_20, TextCache(cache.folder, lambda: "other weights", least=2))
    assert len(encoded) > count + 1, "other prompts and other weights are encoded"
    files = list(cache.folder.iterdir())
    assert {file.suffix for file in files} == {".safetensors"}
    assert len(files) == 3


def test_few_prompts_need_no_cache(grounding_models, grounding_processor, tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "texts", lambda: pytest.fail("the weights need not be read"))
    features(grounding_models["grounding-dino"], grounding_processor, PROMPTS_20, cache)
    assert not cache.folder.exists()


def test_a_damaged_or_unwritable_cache_changes_nothing(grounding_models, grounding_processor, tmp_path: Path) -> None:
    model = grounding_models["grounding-dino"]
    cache = TextCache(tmp_path / "texts", lambda: "weights", least=2)
    first = features(model, grounding_processor, PROMPTS_20, cache)
    (file,) = cache.folder.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(features(model, grounding_processor, PROMPTS_20, cache), first)
    assert file.stat().st_size > 100, "it is written again"
    (tmp_path / "file").write_text("no folder")
    blocked = TextCache(tmp_path / "file", lambda: "weights", least=2)
    assert torch.equal(features(model, grounding_processor, PROMPTS_20, blocked), first)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "groundlabel" / "texts"
