"""`groundlabel bench NAME`: measurements; each is a module here with what a command module has."""

import argparse
from importlib import import_module
from typing import cast

from jobs.cli import Command, add_command

HELP = "Measure speed and quality on this machine."
EXAMPLE = """
groundlabel bench engine --n 64
groundlabel bench tiny --n 100
"""
BENCHES = {
    "bookkeeping": "jobs.bench.bookkeeping",
    "calibrate": "jobs.bench.calibrate",
    "chaos": "jobs.bench.chaos",
    "engine": "jobs.bench.engine",
    "export": "jobs.bench.export",
    "ingest": "jobs.bench.ingest",
    "masks": "jobs.bench.masks",
    "precision": "jobs.bench.precision",
    "queues": "jobs.bench.queues",
    "tiles": "jobs.bench.tiles",
    "tiny": "jobs.bench.tiny",
    "vocabulary": "jobs.bench.vocabulary",
}
"""Bench -> the module that runs it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for each bench."""
    benches = parser.add_subparsers(dest="bench", metavar="BENCH", required=True)
    for name in BENCHES:
        add_command(benches, name, _load(name))


def run(arguments: argparse.Namespace) -> int:
    """Run the bench; returns its status."""
    return _load(arguments.bench).run(arguments)


def _load(name: str) -> Command:
    return cast(Command, import_module(BENCHES[name]))
