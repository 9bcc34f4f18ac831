"""Each promise in docs/runs.md and SECURITY.md names the tests that prove it; they exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_NAMED = re.compile(r"`(tests/test_\w+\.py)::(test_\w+)`")


@pytest.mark.parametrize("document", ["docs/runs.md", "SECURITY.md"])
def test_named_tests_exist(document: str) -> None:
    named = _NAMED.findall((ROOT / document).read_text(encoding="utf-8"))
    assert len(named) > 10
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"


@pytest.mark.parametrize("document", ["docs/runs.md", "SECURITY.md"])
def test_every_promise_names_a_test(document: str) -> None:
    promises: list[str] = []
    in_table = False
    for line in (ROOT / document).read_text(encoding="utf-8").splitlines():
        if line.endswith("| test |"):
            in_table = True
        elif not line.startswith("| "):
            in_table = False
        elif in_table and not line.startswith("| ---"):
            promises.append(line)
    assert len(promises) > 8
    for row in promises:
        assert _NAMED.search(row), row
