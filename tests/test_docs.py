"""The README: it names every command and option, its commands and its Python run, and its picture and links exist."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.annotate import GROUPS
from jobs.cli import COMMANDS, build_parser, main
from pipeline.config import AnnotateConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SHELL_LINES = [
    line.strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
NEEDS_DOWNLOAD = ("grounding-dino-", "sam-vit-", "sam_vit_")
"""Models that a line may name without being run here; it is parsed all the same."""

TAKES_LONG = ("train",)
"""Commands that are only parsed here; test_train_cli.py runs this one."""


def _command_parsers() -> list[tuple[str, argparse.ArgumentParser]]:
    found = []
    for name in COMMANDS:
        top = next(a for a in build_parser(name)._actions if isinstance(a, argparse._SubParsersAction))
        parser = top.choices[name]
        children = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        found.append((name, parser))
        found += [(name, child) for action in children for child in action.choices.values()]
    return found


def _section(name: str) -> str:
    start = README.index(f"### groundlabel {name}\n")
    end = re.search(r"\n##+ ", README[start + 4 :])
    return README[start : start + 4 + end.start()] if end else README[start:]


@pytest.mark.parametrize(("name", "parser"), _command_parsers())
def test_every_command_and_option_is_described(name: str, parser: argparse.ArgumentParser) -> None:
    section = _section(name)
    for action in parser._actions:
        if action.dest in ("help", "debug"):
            continue
        for option in action.option_strings:
            if not option.startswith("--no-") or option == action.option_strings[0]:
                assert f"`{option}`" in section, f"{option} of {name} is not in the README"


def test_the_options_of_annotate_are_in_the_groups_of_its_help() -> None:
    parser = dict(_command_parsers())["annotate"]
    shown = {
        group.title: [(action.option_strings or [action.metavar])[0] for action in group._group_actions]
        for group in parser._action_groups
        if group.title in GROUPS
    }
    tables = re.findall(r"\*\*(\w+)\*\*\n\n((?:\|.*\n)+)", _section("annotate"))
    assert {title: re.findall(r"^\| `([^`]+)`", table, re.MULTILINE) for title, table in tables} == shown
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(AnnotateConfig.__dataclass_fields__)


def test_every_option_that_is_described_exists() -> None:
    known = {"--help", "--debug", "--version", "--constraint"}
    for _, parser in _command_parsers():
        known |= {option for action in parser._actions for option in action.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert named <= known, f"not options: {sorted(named - known)}"


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).is_file(), target


def test_files_that_are_named_exist() -> None:
    for path in re.findall(r"\b(?:pipeline|models|jobs|examples|tests|docs)/[\w/.-]*\w/?", README):
        assert (ROOT / path).exists(), path


def test_make_targets_exist() -> None:
    for line in SHELL_LINES:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", MAKEFILE, re.MULTILINE), line


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the files that the README's commands speak of."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    for name in ("scenes", "cells"):
        for path in sorted((ROOT / "examples" / "images" / name).glob("*.jpg"))[:2]:
            shutil.copy(path, folder / "photos")
    shutil.copy(ROOT / "examples" / "classes.yaml", folder)
    return folder


def _run(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = words.replace("groundlabel ", f"{shlex.quote(sys.executable)} -m jobs ", 1)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_commands_run_in_the_order_of_the_readme(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All but those that write into a file run in this process, which spares each the imports."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    ran = []
    for line in SHELL_LINES:
        if not line.startswith("groundlabel "):
            continue
        words = shlex.split(line.split(" > ")[0], comments=True)
        build_parser(words[1]).parse_args(words[1:])
        if any(name in line for name in NEEDS_DOWNLOAD) or words[1] in TAKES_LONG:
            continue
        if words[1] == "review" and "--no-app" not in words:
            line = f"{line.split('#')[0]} --no-app"
        if words[1] == "annotate" and (workplace / "run").exists() and "classes.yaml" in line:
            line += " --overwrite"
        if ">" in line:
            done = _run(line, workplace)
            status, output, errors = done.returncode, done.stdout, done.stderr
        else:
            status = main(shlex.split(line, comments=True)[1:])
            output, errors = capfd.readouterr()
        assert status == 0, f"{line}\n{output}\n{errors}"
        assert "Traceback" not in errors
        ran.append(words[1])
    assert set(ran) >= {"annotate", "preview", "review", "export", "models", "scenes", "completion"}
    assert (workplace / "preview.jpg").stat().st_size > 10_000
    assert (workplace / "train.coco" / "annotations.json").is_file()


@pytest.mark.timeout(600)
def test_python_runs(workplace: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        script = workplace / "script.py"
        script.write_text(block.replace('"run/"', '"python-run/"'), encoding="utf-8")
        done = _run(f"{shlex.quote(sys.executable)} script.py", workplace)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("4 images, ")


def test_the_ontology_example_is_read(tmp_path: Path) -> None:
    from models.ontology import Ontology

    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "classes.yaml").write_text(block, encoding="utf-8")
    ontology = Ontology.from_file(tmp_path / "classes.yaml")
    assert [spec.name for spec in ontology.classes] == ["car", "person", "traffic light", "dog"]
    assert ontology.prompts[-1].class_id == 0
