"""Which images that hold nothing an export keeps."""

import hashlib
from dataclasses import dataclass

from pipeline.errors import UserError


@dataclass(frozen=True)
class EmptyRule:
    """How many of the images without objects are kept.

    Attributes:
        share: 0 to 1; which ones is decided by their ids alone, so that an image stays when others come or go.
    """

    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "EmptyRule":
        """Read "keep", "drop" or a percentage such as "10%".

        Raises:
            UserError: It is something else.
        """
        words = {"keep": 1.0, "drop": 0.0}
        if text in words:
            return cls(words[text])
        try:
            share = float(text.removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not text.endswith("%") or not 0 <= share <= 1:
            raise UserError(f"--empty must be keep, drop or a percentage from 0% to 100%, not {text!r}")
        return cls(share)

    def keeps(self, image_id: str) -> bool:
        """Say whether an image without objects is kept."""
        draw = int.from_bytes(hashlib.sha256(f"empty/{image_id}".encode()).digest()[:8], "big")
        return draw < self.share * 2**64
