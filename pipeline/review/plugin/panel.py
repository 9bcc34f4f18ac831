"""The panel that shows how far a review is."""

from typing import Any

from pipeline.errors import UserError


def panel_class() -> type:
    """Make FiftyOne's class of the panel."""
    import fiftyone.operators as foo
    import fiftyone.operators.types as types

    class ReviewProgressPanel(foo.Panel):  # type: ignore[misc]
        @property
        def config(self) -> Any:
            return foo.PanelConfig(
                name="review_progress", label="Review progress", icon="insights", help_markdown=_HELP, surfaces="grid"
            )

        def on_load(self, ctx: Any) -> None:
            ctx.panel.state.text = progress_text(ctx.dataset)

        def refresh(self, ctx: Any) -> None:
            self.on_load(ctx)

        def render(self, ctx: Any) -> Any:
            panel = types.Object()
            panel.str("text", view=types.MarkdownView(read_only=True))
            panel.btn("refresh", label="Count again", on_click=self.refresh)
            return types.Property(panel, view=types.GridView(align_x="left", gap=2, orientation="vertical"))

    return ReviewProgressPanel


_HELP = "Images accepted, how often the models' labels were left as they are in those, and the time that is left."


def progress_text(dataset: Any) -> str:
    """Return what the panel shows of a dataset, in Markdown."""
    from pipeline.review.plugin.progress import describe_progress, review_progress
    from pipeline.review.plugin.targets import open_run

    try:
        return describe_progress(review_progress(dataset, open_run(dataset)))
    except UserError as error:
        return str(error)
