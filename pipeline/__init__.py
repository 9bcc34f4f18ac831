"""From files to files: find images, label them, store, review and export the labels.

`from pipeline import annotate, Ontology` is all that a script needs. Importing this package is cheap: what is named
here is loaded at its first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.ontology import Ontology
    from pipeline.config import AnnotateConfig
    from pipeline.run import AnnotateResult, annotate
    from pipeline.store.run import Run

__all__ = ["AnnotateConfig", "AnnotateResult", "Ontology", "Run", "annotate"]

_HOMES = {
    "AnnotateConfig": "pipeline.config",
    "AnnotateResult": "pipeline.run",
    "Ontology": "models.ontology",
    "Run": "pipeline.store.run",
    "annotate": "pipeline.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
