"""The plugin of the App: operators and a panel over the review's own functions.

FiftyOne loads this file under a name of its own; everything else of the folder is imported as `pipeline.review.plugin`.
The modules with the work take a dataset and can be used without the App; `operators` and `forms` are the thin layer on
top.
"""

from typing import Any


def register(plugin: Any) -> None:
    """Register the operators and the panel; FiftyOne calls this with its plugin context."""
    from pipeline.review.plugin.operators import operator_classes
    from pipeline.review.plugin.panel import panel_class

    for made in (*operator_classes(), panel_class()):
        plugin.register(made)
