"""Which prompts a detector's tokenizer cannot read. Imports no torch: it is asked before any model is loaded."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import BertWordPieceTokenizer, Tokenizer

_UNKNOWN = "[UNK]"
_PIECE = "##"
_LEAST_LETTERS = 4
"""Letters of a word that is called spelled out when every piece of it is one letter."""


def describe_unread_prompts(folder: Path, prompts: Sequence[str]) -> list[str]:
    """Say of each prompt that the tokenizer does not read as words what it makes of it.

    Args:
        folder: A detector's folder as `save_pretrained` writes it.
        prompts: Normalised.

    Returns:
        A sentence for each prompt of which some or all is unknown, or a word is only known letter by letter; none for
        a closed set, which reads no text, and where the folder holds no tokenizer that is known here.
    """
    tokenizer = _read_tokenizer(folder)
    if tokenizer is None or _is_closed_set(folder):
        return []
    return [sentence for prompt in prompts if (sentence := _describe(tokenizer, prompt))]


def _read_tokenizer(folder: Path) -> Tokenizer | BertWordPieceTokenizer | None:
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    if (folder / "vocab.txt").is_file():
        return BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    return None


def _is_closed_set(folder: Path) -> bool:
    file = folder / "groundlabel.json"
    return file.is_file() and "classes" in json.loads(file.read_text(encoding="utf-8"))


def _describe(tokenizer: Tokenizer | BertWordPieceTokenizer, prompt: str) -> str | None:
    encoding = tokenizer.encode(prompt, add_special_tokens=False)
    words: dict[int, list[tuple[str, str]]] = {}
    for token, place, (start, end) in zip(encoding.tokens, encoding.word_ids, encoding.offsets, strict=True):
        words.setdefault(-1 if place is None else place, []).append((token, prompt[start:end]))
    unknown = ["".join(text for _, text in pieces) for pieces in words.values() if pieces[0][0] == _UNKNOWN]
    if unknown and len(unknown) == len(words):
        return f"the detector's tokenizer knows no word of the prompt {prompt!r}: it cannot look for it"
    if unknown:
        return f"the detector's tokenizer does not know {', '.join(map(repr, unknown))} in the prompt {prompt!r}"
    spelled = ["".join(text for _, text in pieces) for pieces in words.values() if _is_spelled(pieces)]
    if spelled:
        return f"the detector's tokenizer only spells {', '.join(map(repr, spelled))} in the prompt {prompt!r}"
    return None


def _is_spelled(pieces: Sequence[tuple[str, str]]) -> bool:
    """Tell whether a word came apart into single letters."""
    return len(pieces) >= _LEAST_LETTERS and all(len(token.removeprefix(_PIECE)) == 1 for token, _ in pieces)
