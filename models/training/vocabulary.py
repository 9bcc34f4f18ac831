"""New words for a model with a vocabulary of whole words, such as the tiny one: each takes a free place.

A published model's tokenizer spells every word in pieces, so it needs no new ones and is left as it is. A place is free
where the vocabulary says `[unusedN]`; the word's embedding starts like those of the words that the model knows.
"""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import GroundingDinoProcessor, PreTrainedTokenizerBase

from models.grounding_dino.features import GroundingModel

_FREE = "[unused"
_PIECE = "##"


def has_whole_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the vocabulary is one of whole words: it has no word pieces, so what it lacks it cannot spell."""
    return not any(token.startswith(_PIECE) for token in tokenizer.get_vocab())


def unknown_words(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """Return the words of some texts that the tokenizer does not know, as it writes them, each once, in order.

    Only for a vocabulary of whole words: words are what the tokenizer's own normaliser and splitter make of a text.
    """
    backend = tokenizer.backend_tokenizer
    vocabulary = tokenizer.get_vocab()
    found: dict[str, None] = {}
    for text in texts:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            if word not in vocabulary:
                found[word] = None
    return list(found)


def extend_vocabulary(
    model: GroundingModel, processor: GroundingDinoProcessor, texts: Iterable[str], seed: int = 0
) -> tuple[GroundingDinoProcessor, tuple[str, ...]]:
    """Give the unknown words of some texts places in the vocabulary.

    Args:
        model: Its word embeddings are changed in place.
        processor: Its processor; not changed.
        texts: Class names or prompts.
        seed: Of the new embeddings.

    Returns:
        A processor that knows the words (the same one where there is nothing to add, or the tokenizer spells in
        pieces), and the new words.

    Raises:
        ValueError: The vocabulary has too few free places.
    """
    tokenizer = processor.tokenizer
    words = unknown_words(tokenizer, texts) if has_whole_words(tokenizer) else []
    if not words:
        return processor, ()
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    free = sorted((place, token) for token, place in vocabulary.items() if token.startswith(_FREE))
    if len(words) > len(free):
        raise ValueError(
            f"the data has {len(words)} words that the detector does not know ({', '.join(words[:5])} …), and its "
            f"vocabulary has {len(free)} free places; use fewer or shorter class names, or another --detector"
        )
    renamed = {token: word for (_, token), word in zip(free, words, strict=False)}
    places = [place for place, _ in free[: len(words)]]
    known = sorted(place for token, place in vocabulary.items() if not token.startswith("["))
    _start_embeddings(model, places, known, seed)
    return _rename_tokens(processor, renamed), tuple(words)


def forget_words(processor: GroundingDinoProcessor, words: Iterable[str]) -> GroundingDinoProcessor:
    """Return a processor whose tokenizer does not know some words: their places are free for others.

    Args:
        processor: Of a model that was never trained on the words; not changed.
        words: Of its vocabulary.

    Raises:
        ValueError: It does not know one of them.
    """
    vocabulary: dict[str, int] = processor.tokenizer.get_vocab()
    words = list(words)
    if strange := [word for word in words if word not in vocabulary]:
        raise ValueError(f"the vocabulary has no words {', '.join(strange)}")
    return _rename_tokens(processor, {word: f"{_FREE}{vocabulary[word]}]" for word in words})


def _start_embeddings(model: GroundingModel, places: list[int], known: list[int], seed: int) -> None:
    """Draw embeddings of new words from the normal distribution of the known words', dimension by dimension."""
    weight = model.model.text_backbone.embeddings.word_embeddings.weight
    noise = torch.randn(len(places), weight.shape[1], generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        trained = weight[torch.tensor(known)]
        deviation = trained.std(dim=0, unbiased=False)
        weight[torch.tensor(places)] = trained.mean(dim=0) + deviation * noise.to(weight)


def _rename_tokens(processor: GroundingDinoProcessor, renamed: dict[str, str]) -> GroundingDinoProcessor:
    """Return the processor with other texts for some of its tokens, by way of its own file format."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processor.save_pretrained(folder)
        file = folder / "tokenizer.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        old = content["model"]["vocab"]
        content["model"]["vocab"] = {renamed.get(token, token): place for token, place in old.items()}
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        (folder / "vocab.txt").unlink(missing_ok=True)
        changed: GroundingDinoProcessor = GroundingDinoProcessor.from_pretrained(folder)
    return changed
