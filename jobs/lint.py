"""`groundlabel lint`: what is wrong in a COCO file."""

import argparse

HELP = "Find what is wrong in a COCO file, and set right what can be."
EXAMPLE = """
groundlabel lint labels.json --images photos/
groundlabel lint labels.json --select B,M301 --format github
groundlabel lint labels.json --fix fixed.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "file", metavar="FILE", help="a COCO JSON file, whoever wrote it, or the folder of a COCO export"
    )
    parser.add_argument("--fix", metavar="FILE", help="write a copy in which is mended what has one right answer")
    parser.add_argument(
        "--images", metavar="FOLDER", help="where the images are (default: beside the file, or images/ or data/ there)"
    )
    parser.add_argument(
        "--select", metavar="CODES", help='look only for these: codes or their beginnings, "B,M301" (default: all)'
    )
    parser.add_argument("--ignore", metavar="CODES", help="do not look for these")
    parser.add_argument(
        "--format",
        default="text",
        choices=("text", "json", "github"),
        help="one line a finding, a JSON list, or annotations of a GitHub workflow (default: text)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Look, and mend; returns 1 where findings are left, else 0."""
    import sys
    from collections import Counter
    from pathlib import Path

    from pipeline.lint import FILE_CODES, choose_codes, fix_file, lint_file, read_coco
    from pipeline.lint.findings import format_findings
    from pipeline.lint.fixed_file import check_target, write_fixed

    path = Path(arguments.file)
    codes = choose_codes(_words(arguments.select), _words(arguments.ignore))
    if arguments.fix is not None:
        check_target(Path(arguments.fix))
    result = lint_file(read_coco(path), codes, arguments.images)
    if result.files is None and codes & FILE_CODES and result.coco.content["images"]:
        print(f"{path}: the images are not beside it, so they were not looked at; --images says where", file=sys.stderr)
    if arguments.fix is not None:
        result, changes = fix_file(result, codes)
        for change in changes:
            place = change.finding.place
            print(f"{path}:{place}: {change.finding.code} fixed: {change.text}", file=sys.stderr)
        write_fixed(result.coco.content, Path(arguments.fix))
        print(f"{arguments.fix}: written with {len(changes)} changes", file=sys.stderr)
    for line in format_findings(result.findings, path, arguments.format):
        print(line)
    counts = Counter(finding.code for finding in result.findings)
    by_code = ", ".join(f"{code} {count}" for code, count in sorted(counts.items()))
    left = " left" if arguments.fix is not None else ""
    print(f"{path}: {len(result.findings)} findings{left}{f' ({by_code})' if by_code else ''}", file=sys.stderr)
    return 1 if result.findings else 0


def _words(text: str | None) -> list[str]:
    return text.split(",") if text is not None else []
