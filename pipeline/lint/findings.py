"""What lint finds, and how it is printed: one line each, JSON, or GitHub's annotations."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.lint.codes import CODES

FORMATS = ("text", "json", "github")
_ORDER = {"file": 0, "category": 1, "image": 2, "annotation": 3}


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        kind: What has it: "file", "category", "image" or "annotation".
        row: Its place in the list of its kind, from 0; -1 for the file.
        id: Its id, as the file has it; None where it has none.
        code: One of CODES.
        text: What is wrong, with the numbers.
    """

    kind: str
    row: int
    id: Any
    code: str
    text: str

    @property
    def place(self) -> str:
        """The annotation's id, "image 5", or the place in the list for what has no id; "" for the file."""
        if self.kind == "file":
            return ""
        if self.id is None:
            return f"{self.kind}[{self.row}]"
        return str(self.id) if self.kind == "annotation" else f"{self.kind} {self.id}"


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings in the order of the file: the file itself, categories, images, annotations."""
    return sorted(findings, key=lambda finding: (_ORDER[finding.kind], finding.row, finding.code))


def format_findings(findings: Iterable[Finding], path: Path, format_name: str) -> Iterator[str]:
    """Yield lines to print.

    Args:
        findings: In the order of the lines.
        path: The file that was looked at.
        format_name: One of FORMATS.
    """
    if format_name == "json":
        entries = [
            {"file": str(path), "kind": f.kind, "id": f.id, "row": f.row, "code": f.code, "text": f.text}
            for f in findings
        ]
        yield json.dumps(entries, indent=2, ensure_ascii=False)
        return
    for finding in findings:
        if format_name == "github":
            level = "error" if CODES[finding.code].is_error else "warning"
            title = f"{finding.code} {CODES[finding.code].title}"
            place = f"{finding.place}: " if finding.place else ""
            yield (
                f"::{level} file={_escape(str(path), ':,')},title={_escape(title, ':,')}::"
                + _escape(f"{place}{finding.text}")
            )
        else:
            yield f"{path}:{finding.place}{':' if finding.place else ''} {finding.code} {_one_line(finding.text)}"


def _escape(text: str, also: str = "") -> str:
    """Return text as GitHub's workflow commands want it.

    Source: the toolkit of GitHub Actions, escapeData and escapeProperty.
    """
    for character in f"%\r\n{also}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
