"""How the path of an image is stored: valid text, reversible, and the id that follows from it.

A file name on Linux is bytes. Python shows bytes that are not UTF-8 as lone surrogates, which neither Parquet nor
JSON can hold. A stored path is the path relative to the image root, with "/" between its parts, in which

- each byte that is not part of valid UTF-8 is written as %80 … %FF (two upper-case hexadecimal digits), and
- a "%" that would read as such an escape (followed by 80 … FF or 25) is written as %25.

All other names, with spaces, newlines, emoji or a plain "%", are stored as they are.
"""

import hashlib
import os
import re

_ESCAPE = re.compile(r"%(25|[89A-F][0-9A-F])")
_UNSAFE = re.compile("%(?=25|[89A-F][0-9A-F])|[\udc80-\udcff]")


def path_to_stored(path: str) -> str:
    """Return the stored form of a relative path.

    Args:
        path: As Python gives it (`surrogateescape`), with "/" between the parts.
    """
    return _UNSAFE.sub(lambda match: "%25" if match[0] == "%" else f"%{ord(match[0]) - 0xDC00:02X}", path)


def stored_to_path(stored: str) -> str:
    """Return the path that `path_to_stored` was given."""
    return _ESCAPE.sub(lambda match: "%" if match[1] == "25" else chr(0xDC00 + int(match[1], 16)), stored)


def path_to_image_id(path: str) -> str:
    """Return the id of an image: the first 16 hexadecimal digits of the SHA-256 of its relative path's bytes.

    Args:
        path: Relative to the image root, as Python gives it, with "/" between the parts; so moving the root
            changes no id, and the same name in two folders is two images.
    """
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
