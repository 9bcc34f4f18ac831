"""From prompts to token ids, and which tokens are whose.

The text is `[CLS] prompt . prompt . [SEP]`. Each prompt's span is remembered when the ids are built, so that a box's
class comes from its own prompt's tokens and never from decoding tokens back to text.

Source: Liu et al. 2023 (Grounding DINO), section 3.4; its COCO evaluation averages over a category's tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptText:
    """One text of prompts.

    Attributes:
        input_ids: The tokens, `[CLS]` first and `[SEP]` last, not padded.
        spans: (start, end) of each prompt in `input_ids`, end exclusive, in the prompts' order.
    """

    input_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.input_ids)


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """Return the token ids of one prompt, without special tokens.

    Raises:
        ValueError: The prompt is empty to the tokenizer, or holds a mark that would split it in two.
    """
    ids = tuple(tokenizer.encode(prompt.lower(), add_special_tokens=False))
    if not ids:
        raise ValueError(f"prompt {prompt!r} is empty: the tokenizer finds no word in it")
    marks = {tokenizer.convert_tokens_to_ids(mark) for mark in (".", "?")} - {tokenizer.unk_token_id}
    if marks & set(ids):
        raise ValueError(f"prompt {prompt!r} holds '.' or '?', which would split it into two prompts; take it out")
    return ids


def join_prompts(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[Sequence[int]]) -> PromptText:
    """Join tokenised prompts into one text with a final dot.

    Args:
        tokenizer: Gives the ids of `[CLS]`, `.` and `[SEP]`.
        tokens: The ids of each prompt; may be empty.
    """
    dot = tokenizer.convert_tokens_to_ids(".")
    ids = [tokenizer.cls_token_id]
    spans = []
    for prompt in tokens:
        spans.append((len(ids), len(ids) + len(prompt)))
        ids.extend([*prompt, dot])
    return PromptText((*ids, tokenizer.sep_token_id), tuple(spans))


def stack_texts(texts: Sequence[PromptText], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Pad texts to one length; what the padding's id is does not matter, since it is masked.

    Returns:
        Token ids (B, T) int64 and a mask (B, T) bool that is False on padding.
    """
    length = max(len(text) for text in texts)
    ids = torch.full((len(texts), length), pad_id, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text.input_ids)
    lengths = torch.tensor([len(text) for text in texts])
    return ids, torch.arange(length)[None, :] < lengths[:, None]


def span_matrix(text: PromptText, length: int) -> Tensor:
    """Return which tokens belong to which prompt.

    Args:
        text: The text; P prompts, P may be 0.
        length: T, the padded length.

    Returns:
        (P, T) float32, 1 on a prompt's tokens and 0 elsewhere.
    """
    matrix = torch.zeros(len(text.spans), length)
    for row, (start, end) in enumerate(text.spans):
        matrix[row, start:end] = 1
    return matrix


def span_scores(logits: Tensor, text: PromptText) -> Tensor:
    """Return each query's score for each prompt: the mean of the sigmoid over the prompt's tokens.

    Args:
        logits: (Q, T) token logits, -inf where a token counts for nothing.
        text: The text of the pass; P prompts, P may be 0.

    Returns:
        (Q, P) float in [0, 1].

    Source: the normed positive map of Grounding DINO's COCO evaluation.
    """
    spans = span_matrix(text, logits.shape[-1]).to(logits)
    return logits.sigmoid() @ (spans / spans.sum(1, keepdim=True)).T
