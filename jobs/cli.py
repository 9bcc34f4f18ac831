"""The command line `groundlabel`: finds the command, parses its options, turns errors into one message."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn, Protocol, cast

COMMANDS = {
    "annotate": "jobs.annotate",
    "status": "jobs.status",
    "verify": "jobs.verify",
    "retry": "jobs.retry",
    "compact": "jobs.compact",
    "merge": "jobs.merge",
    "review": "jobs.review",
    "sync": "jobs.sync",
    "export": "jobs.export",
    "preview": "jobs.preview",
    "explain": "jobs.explain",
    "evaluate": "jobs.evaluate",
    "calibrate": "jobs.calibrate",
    "try": "jobs.try_prompts",
    "lint": "jobs.lint",
    "split": "jobs.split",
    "train": "jobs.train",
    "scenes": "jobs.scenes",
    "models": "jobs.models",
    "doctor": "jobs.doctor",
    "bench": "jobs.bench",
    "completion": "jobs.completion",
}
"""Command -> the module that runs it, in the order of the help."""

DESCRIPTION = "Label a folder of images from text prompts, review the labels, export them."
STATUS_WRONG_USE = 2
STATUS_BUG = 1
STATUS_INTERRUPTED = 130


class Command(Protocol):
    """What a command module offers."""

    HELP: str
    """One line, shown in the list of commands."""
    EXAMPLE: str
    """Command lines that work, one a line."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one message, with the nearest option, and ends with status 2."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            leaf = _leaf(self, parsed)
            known = [option for action in leaf._actions for option in action.option_strings]
            leaf.error(f"unknown argument {unknown[0]!r}{nearest(unknown[0].split('=')[0], known)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(STATUS_WRONG_USE, f"{self.prog}: {message}\nSee `{self.prog} --help`.\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples, and leaves room for the longest command name."""

    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, **{"max_help_position": 32, **more})
        # argparse forgets that commands are indented deeper than options.
        self._action_max_length = max(map(len, COMMANDS)) + 4


class _Version(argparse.Action):
    """Prints the version; looked up only then, because that takes longer than all the rest of the help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib import metadata

        try:
            version = metadata.version("groundlabel")
        except metadata.PackageNotFoundError:
            version = "(run from its source folder, not installed)"
        print(f"groundlabel {version}")
        parser.exit()


def _leaf(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> argparse.ArgumentParser:
    """Return the parser of the (sub)command that was chosen."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            chosen = action.choices.get(str(getattr(parsed, action.dest, None)))
            return _leaf(chosen, parsed) if chosen else parser
    return parser


def nearest(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean …?" with the known word most like this one, or an empty text."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def load_command(name: str) -> Command:
    """Import the module of a command."""
    return cast(Command, import_module(COMMANDS[name]))


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Make the parser of all commands, or with the options of one command only (quicker)."""
    parser: argparse.ArgumentParser = _Parser(
        prog="groundlabel",
        description=DESCRIPTION,
        epilog='example:\n  groundlabel annotate photos/ --classes "person, car" --output run/',
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and end")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS if only is None else [only]:
        add_command(commands, name, load_command(name))
    return parser


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, module: Command) -> None:
    """Add the parser of a command, with its examples, to those of a level."""
    command = commands.add_parser(
        name,
        help=module.HELP,
        description=module.HELP,
        epilog="examples:\n" + "\n".join(f"  {line.strip()}" for line in module.EXAMPLE.strip().splitlines()),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(command)
    command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: The words after `groundlabel`; None means this process's.

    Returns:
        The exit status: 0 done, 1 a bug, or findings where a command looks for them, 2 wrong use or input, 3 some
            images failed, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        print(f"groundlabel: unknown command {name!r}{nearest(name, list(COMMANDS))}", file=sys.stderr)
        print(f"Commands: {', '.join(COMMANDS)}. See `groundlabel --help`.", file=sys.stderr)
        return STATUS_WRONG_USE
    if not words:
        words = ["--help"]
    try:
        arguments = build_parser(name).parse_args(words)
        return _run(arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else STATUS_WRONG_USE


def _run(arguments: argparse.Namespace) -> int:
    try:
        status = load_command(arguments.command).run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("groundlabel: interrupted", file=sys.stderr)
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout (head, less) has gone: say nothing, also not at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if arguments.debug:
            raise
        print(f"groundlabel {arguments.command}: {_message(error)}", file=sys.stderr)
        return STATUS_WRONG_USE
    except Exception as error:
        if arguments.debug:
            raise
        kind = type(error).__name__
        print(
            f"groundlabel {arguments.command}: {kind}: {error}\nThis is a bug. Run it again with --debug to see where.",
            file=sys.stderr,
        )
        return STATUS_BUG


def _message(error: ValueError | OSError) -> str:
    """Return an error as one sentence: what the system says of a file is put after the file's name."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__
