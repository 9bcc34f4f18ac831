"""Addresses of images that are not on this machine: which ones are taken, and how they are joined and kept.

A run keeps the address of an image folder where it otherwise keeps a folder; as a `Path` it has one slash less, which
`root_to_address` gives back.
"""

import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import UserError

DEFAULT_SCHEMES = frozenset(("https", "s3", "gs"))
WEB_SCHEMES = ("http", "https")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_ROOT = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Tell whether a text is an address and no path."""
    return "://" in text and _ADDRESS.match(text) is not None


def scheme_of(address: str) -> str:
    """Return the scheme of an address, lower case."""
    return address.partition("://")[0].lower()


def parse_schemes(text: str) -> frozenset[str]:
    """Read a list of schemes, "https,s3".

    Raises:
        UserError: One of them is none.
    """
    found = frozenset(part.strip().lower() for part in text.split(",") if part.strip())
    for scheme in found:
        if not _ADDRESS.fullmatch(f"{scheme}://"):
            raise UserError(f"--remote-schemes {text}: {scheme!r} is no scheme; give names such as https,s3,gs")
    return found


def check_address(address: str, schemes: Collection[str]) -> None:
    """Refuse an address from which nothing is to be fetched.

    Args:
        address: As a list or a user gives it.
        schemes: Those that are allowed.

    Raises:
        UserError: Its scheme is not among them, it names no host, or it holds a password or odd characters.
    """
    scheme = scheme_of(address)
    if scheme not in schemes:
        allowed = ", ".join(sorted(schemes)) or "none"
        raise UserError(
            f"{scheme}:// is not among the kinds of addresses that are fetched ({allowed}; --remote-schemes)"
        )
    if any(not character.isprintable() for character in address):
        raise UserError("the address holds characters that cannot be printed")
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise UserError(f"not a valid address ({error})") from error
    if not parts.netloc:
        raise UserError("the address names no host or bucket")
    if "@" in parts.netloc and scheme in WEB_SCHEMES:
        raise UserError("an address with a user or password would be kept with the labels; give one without")


def address_to_root(address: str) -> Path:
    """Return the address of a folder in the form in which a run keeps its root."""
    return Path(address.rstrip("/"))


def root_to_address(root: str) -> str:
    """Return the address that a root stands for; empty for a folder."""
    return _ROOT.sub(r"\1://", root, count=1) if _ROOT.match(root) else root if is_address(root) else ""


def join_address(address: str, path: str) -> str:
    """Return the address of something below a folder's."""
    return f"{address.rstrip('/')}/{path}"
