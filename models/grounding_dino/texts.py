"""Prompts encoded once, and text passes put together from them.

With the text levels `sub-sentence` and `word` no prompt sees another in the text encoder, and each counts its positions
from its own first word. So a pass's features are its prompts' features one after the other, whatever is packed with
what; only `sentence` needs each text encoded as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from models.grounding_dino.features import GroundingModel, TextFeatures, TextLevel
from models.grounding_dino.forward import encode_text, phrase_masks
from models.grounding_dino.spans import PromptText, join_prompts, prompt_tokens, stack_texts
from models.grounding_dino.text_cache import TextCache

_PROMPTS_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class TextPass:
    """One text pass: its prompts (indices into the ontology's), their text, and its encoded features, batch of 1."""

    prompts: list[int]
    text: PromptText
    features: TextFeatures


class PromptTexts:
    """The prompts of an ontology, encoded.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompts: At least one, normalised.
        level: Which words of a text see each other.
        device: Where the features shall be.
        cache: Where they are kept on disk; None keeps them in memory alone. `sentence` is never kept.

    Attributes:
        tokens: The token ids of each prompt, without the dot that follows it.

    Raises:
        ValueError: A prompt is empty to the tokenizer or alone too long.
    """

    def __init__(
        self,
        model: GroundingModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        level: TextLevel,
        device: torch.device,
        cache: TextCache | None = None,
    ) -> None:
        self._model, self._tokenizer, self._level, self._device = model, tokenizer, level, device
        self.tokens = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
        limit = model.config.max_text_len
        for prompt, ids in zip(prompts, self.tokens, strict=True):
            if len(ids) + 3 > limit:
                raise ValueError(f"prompt {prompt!r} has {len(ids)} tokens, the model takes {limit - 3}: shorten")
        self._features: list[Tensor] | None = None
        if level != "sentence":
            kept = self._encode_alone() if cache is None else cache.fetch(self.tokens, level, self._encode_alone)
            # [CLS], each prompt with its dot, [SEP]
            self._features = list(kept.to(device).split([1, *(len(ids) + 1 for ids in self.tokens), 1]))

    def compose(self, members: Sequence[int]) -> TextPass:
        """Return the pass of some prompts, in this order."""
        text = join_prompts(self._tokenizer, [self.tokens[index] for index in members])
        ids, mask = (part.to(self._device) for part in stack_texts([text]))
        if self._features is None:
            return TextPass(list(members), text, encode_text(self._model, ids, mask, self._level))
        tokens = torch.cat([self._features[0], *(self._features[1 + index] for index in members), self._features[-1]])
        phrase_mask, position_ids = phrase_masks(ids, mask, self._model.model.special_tokens, self._level)
        return TextPass(list(members), text, TextFeatures(tokens[None], mask, phrase_mask, position_ids))

    @torch.inference_mode()
    def _encode_alone(self) -> Tensor:
        """Return (N, d) float32 on the CPU: the features of `[CLS]`, of each prompt with its dot, and of `[SEP]`."""
        features: dict[int, Tensor] = {}
        ends: tuple[Tensor, Tensor] | None = None
        by_length = sorted(range(len(self.tokens)), key=lambda index: len(self.tokens[index]))
        for start in range(0, len(by_length), _PROMPTS_AT_ONCE):
            members = by_length[start : start + _PROMPTS_AT_ONCE]
            texts = [join_prompts(self._tokenizer, [self.tokens[index]]) for index in members]
            ids, mask = (part.to(self._device) for part in stack_texts(texts))
            encoded = encode_text(self._model, ids, mask, self._level).tokens.float().cpu()
            for index, text, row in zip(members, texts, encoded, strict=True):
                features[index] = row[1 : len(text) - 1]
                ends = row[:1], row[len(text) - 1 : len(text)]
        if ends is None:
            raise ValueError("there is no prompt to encode")
        return torch.cat([ends[0], *(features[index] for index in range(len(self.tokens))), ends[1]])
