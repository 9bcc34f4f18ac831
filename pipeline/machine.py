"""What this machine has of what groundlabel needs, and how to get the rest."""

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from pipeline.errors import UserError

_PACKAGES = (
    *("torch", "torchvision", "transformers", "segment-anything", "ray", "pyarrow", "pycocotools", "numpy", "pillow"),
    *("fiftyone", "fiftyone-db"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: "system", "packages", "devices", "models" or "database".
        name: What it is.
        state: "ok", "missing" (a part of groundlabel does not work without it) or "optional" (not here, not needed).
        detail: What was found.
        advice: How to get it; empty where nothing is missing.
    """

    section: str
    name: str
    state: str
    detail: str
    advice: str = ""


def examine_machine() -> Iterator[Finding]:
    """Yield the findings one by one, in sections; torch is imported, nothing is started or downloaded."""
    yield Finding("system", "groundlabel", "ok", _version("groundlabel") or "run from its source folder")
    yield Finding("system", "python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield Finding("system", "platform", "ok", platform.platform())
    usage = shutil.disk_usage(".")
    yield Finding("system", "disk", "ok", f"{usage.free / 1e9:.0f} GB free of {usage.total / 1e9:.0f} GB here")
    yield from _packages()
    yield from _devices()
    yield from _models()
    yield _database()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    for package in _PACKAGES:
        version = _version(package)
        advice = "" if version else f"pip install {package} (or install groundlabel again)"
        yield Finding("packages", package, "ok" if version else "missing", version or "not installed", advice)


def _devices() -> Iterator[Finding]:
    from models.devices import describe_devices

    try:
        devices = describe_devices()
    except ImportError as error:
        yield Finding("devices", "torch", "missing", f"cannot be imported: {error}", "pip install torch torchvision")
        return
    for device in devices:
        memory = f", {device.memory_bytes / 1e9:.0f} GB" if device.memory_bytes else ""
        yield Finding("devices", device.name, "ok", device.description + memory)
    if len(devices) == 1:
        yield Finding(
            "devices", "gpu", "optional", "none that torch can use", "the bundled models run well without one"
        )


def _models() -> Iterator[Finding]:
    from models.zoo import ZOO, is_at_hand

    for entry in ZOO.values():
        detail = f"{entry.kind}, {entry.parameters_m:g} M parameters"
        if is_at_hand(entry.name):
            yield Finding("models", entry.name, "ok", detail)
        elif entry.bundled:
            advice = "its files are missing from the package: install groundlabel again"
            yield Finding("models", entry.name, "missing", detail, advice)
        else:
            yield Finding("models", entry.name, "optional", f"{detail}, not on this machine ({entry.size_mb} MB)")


def _database() -> Finding:
    from pipeline.review.mongod import find_mongod

    try:
        return Finding("database", "mongodb", "ok", find_mongod().describe())
    except UserError as error:
        first, *rest = str(error).splitlines()
        return Finding("database", "mongodb", "missing", f"{first} `groundlabel review` needs it", "\n".join(rest))
