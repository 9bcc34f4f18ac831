"""`groundlabel review`: its addresses and ports, what it warns about and imports, and when corrections are written."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

import jobs.review
from pipeline.errors import UserError
from pipeline.review import app
from tests.review_runs import one_disc, write_run

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.mark.parametrize(
    ("address", "expected"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback_is_known(address: str, expected: bool) -> None:
    assert app.is_loopback(address) is expected


def test_a_port_is_taken_at_once_and_errors_are_clear() -> None:
    with app.open_listener(None, "127.0.0.1") as first, app.open_listener(None, "127.0.0.1") as second:
        ports = [listener.getsockname()[1] for listener in (first, second)]
        assert ports[0] != ports[1]
        with pytest.raises(UserError, match=f"--port {ports[1]} is taken"):
            app.open_listener(ports[1], "127.0.0.1")
    with app.open_listener(ports[1], "127.0.0.1") as again:
        assert again.getsockname()[1] == ports[1]
    for port, address in ((0, "192.0.2.1"), (99999, "127.0.0.1"), (None, "no such host")):
        with pytest.raises(UserError, match=f"--address {address}"):
            app.open_listener(port, address)


def test_a_wide_address_is_warned_about_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.review.connection.connected_fiftyone", lambda: (_ for _ in ()).throw(UserError("x")))
    monkeypatch.setattr(jobs.review, "end_on_signals", lambda: None)
    parser = argparse.ArgumentParser()
    jobs.review.add_arguments(parser)
    run = write_run(tmp_path, [one_disc("a.png")])
    with pytest.raises(UserError):
        jobs.review.run(parser.parse_args([str(run), "--address", "0.0.0.0", "--port", "0"]))
    assert "no password" in capsys.readouterr().err


def test_the_command_imports_no_fiftyone() -> None:
    code = "import sys, jobs.review, pipeline.review\n"
    code += "print([name for name in ('fiftyone', 'torch', 'ray', 'pyarrow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class _Sync:
    """Stands in for what finds corrections: counts its calls."""

    def __init__(self, reachable: bool = True) -> None:
        self.calls: list[bool] = []
        self.changes = {"added": 2, "object taken": 7}
        self.can_reach_database = lambda: reachable

    def __call__(self, everything: bool = False) -> int:
        self.calls.append(everything)
        return 0


class _Server:
    """Stands in for the App: after some waits it ends as it was told to."""

    def __init__(self, waits: int, end: BaseException) -> None:
        self._waits, self._end = waits, end

    def wait(self, seconds: float) -> None:
        self._waits -= 1
        if self._waits < 0:
            raise self._end


def test_corrections_are_written_while_the_app_is_open_and_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    sync = _Sync()
    jobs.review._sync_until_closed(_Server(2, KeyboardInterrupt()), sync)  # type: ignore[arg-type]
    assert sync.calls == [False, False, True]
    assert capsys.readouterr().out == "corrections written to the run: 2 added\n"
    for reachable, end in ((True, SystemExit(143)), (False, UserError("the server ended"))):
        sync = _Sync(reachable)
        with pytest.raises(type(end)):
            jobs.review._sync_until_closed(_Server(0, end), sync)  # type: ignore[arg-type]
        assert sync.calls == ([True] if reachable else [])
