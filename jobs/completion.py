"""`groundlabel completion`: prints a completion script for a shell."""

import argparse
from collections.abc import Mapping

HELP = "Print a completion script for bash, zsh or fish."
EXAMPLE = """
groundlabel completion bash > ~/.local/share/bash-completion/completions/groundlabel
groundlabel completion zsh > ~/.zfunc/_groundlabel
groundlabel completion fish > ~/.config/fish/completions/groundlabel.fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that reads the script")


def run(arguments: argparse.Namespace) -> int:
    """Print the script; returns 0."""
    import shtab

    from jobs.cli import build_parser

    parser = build_parser()
    _complete_files(parser, shtab.FILE)
    print(shtab.complete(parser, shell=arguments.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser, files: Mapping[str, str | dict[str, str]]) -> None:
    """Let every argument that takes a free value complete file names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, files)
        elif action.choices is None and action.nargs != 0 and action.type not in (int, float):
            action.complete = files  # type: ignore[attr-defined]
