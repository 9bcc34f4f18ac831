"""JSON lists that are written element by element, so that no list is ever held."""

import json
from typing import Any, TextIO


class JsonList:
    """Writes the elements of a JSON list, each on its own line; brackets are the caller's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._between = "\n"

    def add(self, element: Any) -> None:
        """Write one element.

        Raises:
            ValueError: A number in it is not finite.
        """
        self._stream.write(self._between + json.dumps(element, allow_nan=False, separators=(",", ":")))
        self._between = ",\n"
