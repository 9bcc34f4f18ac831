"""`groundlabel scenes`: generated images with an exact truth."""

import argparse
from pathlib import Path

HELP = "Generate scenes of coloured shapes with exact labels."
EXAMPLE = """
groundlabel scenes --n 100 --output scenes/
groundlabel scenes --n 100 --output scenes/ --size 320 --seed 7
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where to; must hold no scenes yet")
    parser.add_argument("--n", type=int, default=100, metavar="N", help="how many (default: 100)")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of a scene (default: 256)")
    parser.add_argument("--objects", type=int, default=12, metavar="N", help="most objects in a scene (default: 12)")
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="same seed, same scenes (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Write the scenes; returns 0."""
    from models.training.scenes import SceneConfig, write_scenes

    config = SceneConfig(size=arguments.size, max_objects=arguments.objects)
    write_scenes(Path(arguments.output), arguments.n, arguments.seed, config)
    print(f"{arguments.output}: {arguments.n} scenes")
    return 0
