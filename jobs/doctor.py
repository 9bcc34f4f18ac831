"""`groundlabel doctor`: what this machine has, what is missing, how to get it."""

import argparse

HELP = "Show what this machine has, what is missing and how to get it."
EXAMPLE = """
groundlabel doctor
"""
_MARKS = {"ok": "ok", "missing": "MISSING", "optional": "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command: none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; returns 1 if something that is needed is missing, else 0."""
    from pipeline.machine import examine_machine

    missing, section = 0, ""
    for finding in examine_machine():
        if finding.section != section:
            print(("\n" if section else "") + finding.section)
            section = finding.section
        missing += finding.state == "missing"
        print(f"  {_MARKS[finding.state]:8}{finding.name:26}{finding.detail}", flush=True)
        for line in finding.advice.splitlines():
            print(f"{'':36}{line}", flush=True)
    print("\n`groundlabel models NAME` says how to get a model that is not on this machine.")
    print(f"{missing} missing." if missing else "Everything that is needed is here.")
    return 1 if missing else 0
