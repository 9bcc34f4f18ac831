"""`groundlabel models`: the detectors and segmenters that have a name."""

import argparse
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from models.zoo import ZooEntry

HELP = "List the detectors and segmenters, with size and licence."
EXAMPLE = """
groundlabel models
groundlabel models grounding-dino-base
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show one model: where it is, or how to get it")


def run(arguments: argparse.Namespace) -> int:
    """Print the list or one model; returns 0."""
    from models.zoo import ZOO, is_at_hand

    if arguments.name is None:
        print(f"  {'name':25}{'kind':11}{'parameters':>10}{'weights':>10}  {'licence':12}note")
        for entry in ZOO.values():
            mark = "*" if is_at_hand(entry.name) else " "
            size, weights = f"{entry.parameters_m:g} M", f"{entry.size_mb} MB"
            print(f"{mark} {entry.name:25}{entry.kind:11}{size:>10}{weights:>10}  {entry.licence:12}{entry.note}")
        print("\n* is on this machine. `groundlabel models NAME` tells where a model is, or how to get it.")
        print("--detector and --segmenter also take a hub id (owner/name), a model folder or a SAM checkpoint (.pth).")
        return 0
    if arguments.name not in ZOO:
        from jobs.cli import nearest

        raise UserError(f"no model is called {arguments.name!r}{nearest(arguments.name, list(ZOO))}")
    _show(ZOO[arguments.name], is_at_hand(arguments.name))
    return 0


def _show(entry: "ZooEntry", at_hand: bool) -> None:
    from models.zoo import BUNDLED, checkpoint_folder

    print(f"{entry.name}: {entry.kind}, {entry.note}")
    print(f"{entry.parameters_m:g} M parameters, {entry.size_mb} MB of weights, {entry.licence}")
    if entry.bundled:
        print(f"ships with groundlabel, in {BUNDLED / entry.name}" + ("" if at_hand else " (which is missing)"))
    elif entry.checkpoint:
        path = checkpoint_folder() / entry.checkpoint
        print(f"on this machine: {path}" if at_hand else f"put segment-anything's {entry.checkpoint} at {path}")
    else:
        where = "on this machine, in the hub's cache" if at_hand else "downloaded at its first use"
        print(f"{where}: {entry.hub_id}")
        if not at_hand:
            folder = str(entry.hub_id).rpartition("/")[2]
            print("for a machine without network, run this on one that has it, and copy the folder:")
            print(f"  hf download {entry.hub_id} --local-dir {folder}")
            print(f"then: --{entry.kind} ./{folder}")
