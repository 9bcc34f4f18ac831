"""Lint for COCO files: what is wrong in the labels, and setting right what has one right answer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.coco_file import CocoFile, find_image_folder, read_coco
from pipeline.errors import UserError
from pipeline.lint import boxes, categories, masks, structure
from pipeline.lint.codes import choose_codes
from pipeline.lint.findings import Finding, sort_findings
from pipeline.lint.fix import Change, fix_findings
from pipeline.lint.image_files import FileFacts, check_files, file_names, look_at_files
from pipeline.lint.table import Table

__all__ = ["Change", "Finding", "LintResult", "choose_codes", "fix_file", "lint_file", "read_coco"]

Check = Callable[[Table], Iterator[Finding]]

CHECKS: tuple[tuple[tuple[str, ...], Check], ...] = (
    (("S101",), structure.check_form),
    (("S102", "S103", "S104"), structure.check_ids),
    (("S105", "S106"), structure.check_references),
    (("S107",), structure.check_numbers),
    (("B201",), boxes.check_outside),
    (("B202",), boxes.check_size),
    (("B203",), boxes.check_twins),
    (("B204",), boxes.check_whole),
    (("M301",), masks.check_areas),
    (("M302",), masks.check_bounds),
    (("M303", "M304", "M306", "M307"), masks.check_segmentations),
    (("M305",), masks.check_rle_sizes),
    (("M308",), masks.check_crowds),
    (("C401",), categories.check_unused),
    (("C402",), categories.check_names),
)
"""The codes that a check may find, and the check."""

FILE_CODES = frozenset(("I501", "I502", "I503", "I504"))
_MOST_ROUNDS = 5


@dataclass(frozen=True)
class LintResult:
    """What was found.

    Attributes:
        coco: The file, or its mended content.
        findings: In the order of the file.
        files: What is known of the image files by name; None where they were not looked at.
    """

    coco: CocoFile
    findings: list[Finding]
    files: dict[str, FileFacts] | None


def lint_file(coco: CocoFile, codes: frozenset[str], images: str | Path | None = None) -> LintResult:
    """Look for what is wrong in a COCO file.

    Args:
        coco: The file.
        codes: What to look for, from `choose_codes`.
        images: Folder that `file_name` is relative to; None looks beside the file and in images/ and data/ there. The
            image files are read where there is one and a code of theirs is to be looked for.

    Raises:
        UserError: There is no such folder.
    """
    if images is not None and not Path(images).is_dir():
        raise UserError(f"{images}: no such folder of images")
    table = Table.from_content(coco.content, coco.has_nan)
    names = [name for name in file_names(table) if name is not None]
    folder = Path(images) if images is not None else find_image_folder(coco.folder, names)
    files = look_at_files(names, folder) if folder is not None and codes & FILE_CODES else None
    return LintResult(coco, _find(table, codes, files), files)


def _find(table: Table, codes: frozenset[str], files: dict[str, FileFacts] | None) -> list[Finding]:
    found = [finding for wanted, check in CHECKS if codes.intersection(wanted) for finding in check(table)]
    if files is not None:
        found += check_files(table, files)
    return sort_findings(finding for finding in found if finding.code in codes)


def fix_file(result: LintResult, codes: frozenset[str]) -> tuple[LintResult, list[Change]]:
    """Set right what has one right answer.

    Args:
        result: Of `lint_file`; its content stays as it is.
        codes: What it looked for.

    Returns:
        The mended content with the findings that are left, and what was changed.
    """
    changes: list[Change] = []
    table = Table.from_content(result.coco.content, result.coco.has_nan)
    for _ in range(_MOST_ROUNDS):
        content, done = fix_findings(result.coco.content, table, result.findings, result.files)
        if not done:
            break
        changes += done
        coco = replace(result.coco, content=content)
        table = Table.from_content(content, coco.has_nan)
        result = LintResult(coco, _find(table, codes, result.files), result.files)
    return result, changes
