"""One operator of the App as a value: name, form and function; FiftyOne's class is made of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError


@dataclass(frozen=True)
class Progress:
    """How far an action is."""

    share: float
    text: str


@dataclass(frozen=True)
class Outcome:
    """How an action ended.

    Attributes:
        message: One sentence for the person.
        changed: Labels or tags are others now, and the App has to show them anew.
        output: A longer text in Markdown, shown in the form's place; empty for none.
        view: A FiftyOne view, or the name of a saved one, that the App shall show; None leaves it at what it shows.
    """

    message: str
    changed: bool = True
    output: str = ""
    view: Any = None


@dataclass(frozen=True)
class Action:
    """One operator.

    Attributes:
        name: Of the operator, without the plugin's.
        label: What the App shows.
        description: One sentence.
        icon: Of Material Icons.
        work: Does it, with FiftyOne's context: yields its progress and at the end the outcome.
        form: Returns FiftyOne's description of the form; None where a click is enough.
        is_long: Runs with a progress bar, and may be delegated.
        has_output: The outcome's text stays to be read.
        is_for_objects: Has a button beside an open image, too, where single objects are selected.
        is_here: Changes what the App shows, and so cannot be delegated.
    """

    name: str
    label: str
    description: str
    icon: str
    work: Callable[[Any], Iterator[Progress | Outcome]]
    form: Callable[[Any], Any] | None = None
    is_long: bool = False
    has_output: bool = False
    is_for_objects: bool = False
    is_here: bool = False


def operator_classes_of(action: Action) -> list[type]:
    """Make FiftyOne's classes of an action: one, and an unlisted twin for a second button, as each has one place."""
    classes = [operator_class(action)]
    if action.is_for_objects:
        classes.append(operator_class(action, in_open_image=True))
    return classes


def operator_class(action: Action, in_open_image: bool = False) -> type:
    """Make FiftyOne's class of an action, with its button above the images or in an open one."""
    import fiftyone.operators as foo
    import fiftyone.operators.types as types

    class Made(foo.Operator):  # type: ignore[misc]
        @property
        def config(self) -> Any:
            return foo.OperatorConfig(
                name=f"{action.name}_open" if in_open_image else action.name,
                label=action.label,
                description=action.description,
                icon=action.icon,
                dynamic=action.form is not None,
                execute_as_generator=action.is_long,
                allow_delegated_execution=action.is_long and not action.is_here,
                view_target=False,
                unlisted=in_open_image,
            )

        def resolve_input(self, ctx: Any) -> Any:
            return action.form(ctx) if action.form is not None else None

        def resolve_placement(self, ctx: Any) -> Any:
            has_window = action.form is not None or action.has_output
            button = types.Button(label=action.label, icon=action.icon, prompt=has_window)
            places = types.Places
            place = places.SAMPLES_VIEWER_ACTIONS if in_open_image else places.SAMPLES_GRID_SECONDARY_ACTIONS
            return types.Placement(place, button)

        def execute(self, ctx: Any) -> Any:
            steps = _steps(action, ctx)
            return steps if action.is_long else [step for step in steps if isinstance(step, dict)][-1]

        def resolve_output(self, ctx: Any) -> Any:
            if not action.has_output:
                return None
            outputs = types.Object()
            outputs.str("output", view=types.MarkdownView())
            return types.Property(outputs, view=types.View(label=action.label))

    Made.__name__ = Made.__qualname__ = "".join(part.capitalize() for part in action.name.split("_"))
    return Made


def _steps(action: Action, ctx: Any) -> Iterator[Any]:
    """Yield what FiftyOne shall show, and at the end the result; a person's mistake is said, not traced."""
    try:
        yield from _shown(action, ctx)
    except UserError as error:
        if ctx.delegated:
            raise
        yield ctx.ops.notify(str(error), variant="error")
        if action.is_long:
            yield ctx.ops.set_progress(progress=1.0, label=str(error))
        else:
            yield {"message": str(error), "output": str(error)}


def _shown(action: Action, ctx: Any) -> Iterator[Any]:
    for step in action.work(ctx):
        if isinstance(step, Progress):
            if ctx.delegated:
                ctx.set_progress(progress=step.share, label=step.text)
            else:
                yield ctx.ops.set_progress(progress=step.share, label=step.text)
            continue
        if not ctx.delegated:
            if action.is_long:  # its window stays until the person closes it
                yield ctx.ops.set_progress(progress=1.0, label=step.message)
            yield ctx.ops.notify(step.message, variant="success" if step.changed else "info")
            if step.changed:
                yield ctx.ops.reload_dataset() if action.is_long else ctx.ops.reload_samples()
            if step.view is not None:
                yield ctx.ops.close_sample()  # the App fails where an open image is not in its new view
                yield ctx.ops.set_view(**{"name" if isinstance(step.view, str) else "view": step.view})
        if not action.is_long:
            yield {"message": step.message, "output": step.output}
