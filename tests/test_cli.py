"""The command line: help, examples, wrong use, exit statuses, completion, and what it imports."""

import argparse
import os
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import cli
from jobs.bench import BENCHES
from jobs.cli import COMMANDS, Command, build_parser, load_command, main
from pipeline.errors import UserError

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "ray", "fiftyone", "pandas", "pyarrow", "scipy", "matplotlib", "shtab", "rich")


def run_python(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, cwd=cwd, env=environment
    )


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, jobs.cli\n"
        "status = jobs.cli.main(['--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], status, file=sys.stderr)"
    )
    done = run_python("-c", script)
    assert done.stderr.strip() == "[] 0"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"  groundlabel {name}" in text


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += _parsers(child)
    return found


def test_every_option_has_a_help_text() -> None:
    for parser in _parsers(build_parser()):
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), (parser.prog, action.dest)


@pytest.mark.parametrize(
    ("name", "module"),
    [(name, load_command(name)) for name in COMMANDS] + [("bench", import_module(path)) for path in BENCHES.values()],
)
def test_examples_parse(name: str, module: Command) -> None:
    for line in module.EXAMPLE.strip().splitlines():
        words = shlex.split(line.split(">")[0].strip(), comments=True)
        assert words[:2] == ["groundlabel", name]
        assert build_parser(name).parse_args(words[1:]).command == name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["anotate", "photos/"], "unknown command 'anotate'; did you mean annotate?"),
        (["xyzzy"], "unknown command 'xyzzy'\nCommands: annotate, "),
        (["export", "run", "--ouput", "x"], "the following arguments are required: --output"),
        (["export", "run", "--output", "x", "--overwrit"], "unknown argument '--overwrit'; did you mean --overwrite?"),
        (["export", "run", "--output", "x", "--format", "tensor"], "invalid choice: 'tensor'"),
        (["preview", "run", "--n", "many"], "argument --n: invalid int value: 'many'"),
        (["preview", "nowhere"], "groundlabel preview: nowhere: no such run folder"),
        (["--debug"], "required: COMMAND"),
    ],
)
def test_wrong_use_is_one_message_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") <= 2
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "annotate" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("groundlabel ")


def _replace_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(arguments: argparse.Namespace) -> int:
        raise error

    module = SimpleNamespace(HELP="h", EXAMPLE="groundlabel fail", add_arguments=lambda parser: None, run=fail)
    monkeypatch.setitem(cli.COMMANDS, "fail", "tests.fail")
    monkeypatch.setattr(cli, "load_command", lambda name: module)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("classes.yaml:3: wrong"), 2, "groundlabel fail: classes.yaml:3: wrong\n"),
        (OSError(28, "No space left on device", "/run/x"), 2, "groundlabel fail: /run/x: No space left on device\n"),
        (FileNotFoundError("put it there"), 2, "groundlabel fail: put it there\n"),
        (RuntimeError("odd"), 1, "groundlabel fail: RuntimeError: odd\nThis is a bug."),
        (KeyboardInterrupt(), 130, "groundlabel: interrupted\n"),
    ],
)
def test_errors_become_messages(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    _replace_command(monkeypatch, error)
    assert main(["fail"]) == status
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("words", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_lets_the_traceback_through(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    _replace_command(monkeypatch, UserError("wrong"))
    with pytest.raises(UserError, match="wrong"):
        main(words)


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m jobs completion bash | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "overwrite"):
        assert word in script


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    ask = f"source {script}; COMP_WORDS=(groundlabel expo); COMP_CWORD=1; _shtab_groundlabel; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["export"]
