"""`groundlabel retry`: the failed images of a run once more."""

import argparse

from jobs.annotate import add_options, report
from pipeline.config import AnnotateConfig

HELP = "Label the failed images of a run again, and nothing else."
EXAMPLE = """
groundlabel retry run/
groundlabel retry run/ --workers 2 --image-timeout 60
"""
_OPTIONS = (
    *("device", "address", "workers", "gpus_per_worker", "resources", "threads", "batch_size", "image_timeout"),
    *("remote_schemes", "allow_private_addresses"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command: those of annotate that don't make other rows."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    add_options(parser, _OPTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Try the failed images; statuses as of annotate."""
    from pipeline.retry import retry

    given = {name: getattr(arguments, name) for name in _OPTIONS}
    config = AnnotateConfig().merged({name: value for name, value in given.items() if value is not None})
    return report(retry(arguments.run, config), arguments.run)
