"""Encoded prompts kept on disk, so that a large vocabulary is encoded once a model and not once a start.

A file holds one list of prompts for one model. It can be deleted at any time; what cannot be read is made again.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

_KEY = "tokens"


def default_cache_folder() -> Path:
    """Return groundlabel's folder of encoded prompts in the user's cache, by XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundlabel" / "texts"


@dataclass(frozen=True)
class TextCache:
    """Encoded prompts of one model.

    Attributes:
        folder: Where the files are; made at the first write.
        fingerprint: Says which weights the model has; called at the first use, since it reads all of them.
        least: Fewest prompts that are worth a file; fewer are encoded faster than the weights are read.
    """

    folder: Path
    fingerprint: Callable[[], str]
    least: int = 64

    def fetch(self, tokens: Sequence[Sequence[int]], level: str, encode: Callable[[], Tensor]) -> Tensor:
        """Return the file's features, or those that `encode` returns, which are then kept.

        Args:
            tokens: The token ids of each prompt; they, the level and the fingerprint are the key.
            level: Which words see each other.
            encode: Returns the (N, d) float32 features of all tokens on the CPU.
        """
        if len(tokens) < self.least:
            return encode()
        key = json.dumps([self.fingerprint(), level, [list(ids) for ids in tokens]])
        file = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
        with contextlib.suppress(OSError, SafetensorError, KeyError):
            return load_file(file)[_KEY]
        features = encode()
        # Without a cache the run goes on: the folder may be read-only or the disk full.
        with contextlib.suppress(OSError):
            _write(file, features)
        return features


def _write(file: Path, features: Tensor) -> None:
    """Write the features, whole or not at all, whoever else writes the same file now."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.stem[:8], suffix=".part")
    try:
        with os.fdopen(handle, "wb") as part:
            part.write(save({_KEY: features.to(torch.float32).contiguous()}))
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
