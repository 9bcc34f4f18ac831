"""What a run tells others: status.json, `groundlabel status`, the log and the summary."""

import json
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.cli import main
from models.devices import GpuUse, read_gpu_use
from pipeline.engine.report import Reporter
from pipeline.listing import Listing
from pipeline.sources import open_images
from pipeline.store.index import IdIndex
from pipeline.store.log import LOG_FILE, RunLog
from pipeline.store.status import DONE, RUNNING, STATUS_FILE, RunStatus, WorkerStatus, read_status, write_status
from pipeline.store.summary import reason_kind, summary_to_markdown
from tests.store_runs import CONFIG, label, open_writer, save_images

STATUS = RunStatus(
    state=RUNNING,
    host=socket.gethostname(),
    pid=os.getpid(),
    started=1000.0,
    updated=1090.0,
    listed=500,
    listing_done=True,
    present=100,
    todo=400,
    done=40,
    failed=2,
    given=48,
    reasons={"too many pixels: … × …": 2},
    rate=2.0,
    rate_overall=1.5,
    seconds_left=180.0,
    deaths=1,
    last_error="a.png: too many pixels: 9 × 9",
    workers=(
        WorkerStatus(7, 8, 3.0, 87, 10_200_000_000, 80_000_000_000),
        WorkerStatus(0, 0, 4.0),
        WorkerStatus(8, 0, 0.5),
    ),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return label(save_images(tmp_path / "images", 6, bad=[2]), tmp_path / "run").folder


def test_status_of_a_run_at_work(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_status(run, STATUS)
    assert read_status(run) == STATUS
    assert STATUS.at_work
    assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    for text in (
        f"running (process {os.getpid()} on {socket.gethostname()}, 1 min 30 s)",
        "500 images listed: 100 were there before, 400 to do, 40 of them done, 2 failed",
        "2.00 images/s now, 1.50 overall, 3 min left",
        "worker 7: 8 images in hand for 3 s; GPU 87 % busy, 10.2 of 80.0 GB used",
        "worker …: loading for 4 s",
        "worker 8: waiting for 0 s\n",
        "failed 2 ×: too many pixels",
        "1 worker(s) died",
        "last error: a.png: too many pixels",
    ):
        assert text in shown
    assert main(["status", str(run), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["done"], values["at_work"], values["workers"][0]["pid"]) == (40, True, 7)


@pytest.mark.parametrize("busy", [42, None])
def test_use_of_a_gpu(monkeypatch: pytest.MonkeyPatch, busy: int | None) -> None:
    """Ask a stand-in for torch, as this machine may have no GPU."""

    def utilization() -> int:
        if busy is None:
            raise ModuleNotFoundError("pynvml does not seem to be installed")
        return busy

    cuda = SimpleNamespace(is_initialized=lambda: False, mem_get_info=lambda: (30, 80), utilization=utilization)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert read_gpu_use() is None
    cuda.is_initialized = lambda: True
    assert read_gpu_use() == GpuUse(busy, 50, 80)


def test_watch_ends_with_the_call(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_status(run, replace(STATUS, state=DONE, workers=()))
    assert main(["status", str(run), "--watch", "--json"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_a_driver_that_died_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    write_status(run, replace(STATUS, pid=child))
    main(["status", str(run)])
    assert "its process is gone" in capsys.readouterr().out
    assert not replace(STATUS, host="elsewhere").at_work
    assert replace(STATUS, host="elsewhere", updated=time.time()).at_work
    assert replace(STATUS, pid=1).at_work


def test_status_without_a_call(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run)]) == 0
    assert "no call at work\n6 images listed: 6 were there before" in capsys.readouterr().out
    (run / STATUS_FILE).write_text("{")
    assert read_status(run) is None
    assert main(["status", str(run / "nothing")]) == 2


def test_the_reporter_writes_what_it_sees(tmp_path: Path) -> None:
    images, run = save_images(tmp_path / "images", 3), tmp_path / "run"
    with (
        open_writer(images, run) as writer,
        Listing(open_images(images), IdIndex([]), run, CONFIG, spool_folder=run) as listing,
    ):
        reporter = Reporter(writer, listing, shown=False)
        listing.wait(3)
        reporter.progress.give(3)
        reporter.progress.lose("worker 5 died of SIGSEGV")
        reporter.progress.advance(2, [("a.png", "too many pixels: 12 × 7")])
        reporter.report(reporter.progress, RUNNING)
        status = read_status(run)
        assert status is not None
        assert (status.todo, status.given, status.done, status.failed, status.deaths) == (3, 3, 2, 1, 1)
        assert status.reasons == {"too many pixels: … × …": 1}
        assert status.last_error == "a.png: too many pixels: 12 × 7"
        reporter.end(DONE)
    last = json.loads((run / LOG_FILE).read_text().splitlines()[-1])
    assert (last["event"], last["done"], last["given"]) == (DONE, 2, 3)


def test_the_log_goes_on_behind_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text('{"event": "sta')
    log = RunLog(tmp_path)
    log.write("start", images="ü")
    log.write("done")
    log.close()
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert lines[0] == '{"event": "sta'
    assert [json.loads(line)["event"] for line in lines[1:]] == ["start", "done"]
    assert json.loads(lines[1])["images"] == "ü"


def test_summary(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["images"], summary["failed"]) == (6, 1)
    assert summary["failed_by_reason"] == {"not an image in a format that is read": 1}
    assert len(summary["slowest"]) == 6
    assert [row["seconds"] for row in summary["slowest"]] == sorted(
        (row["seconds"] for row in summary["slowest"]), reverse=True
    )
    text = (run / "summary.md").read_text()
    assert "| 6 | 5 | 1 | 7 |" in text
    assert "| red thing | 5 |" in text
    assert "## Slowest images" in text
    odd = summary_to_markdown(summary | {"failed_by_reason": {"a | b\nc": 1}})
    assert "| a \\| b c | 1 |" in odd


def test_reasons_are_counted_without_their_numbers() -> None:
    assert reason_kind("too many pixels: 30000 × 20000 is over 1.5") == reason_kind("too many pixels: 3 × 2 is over 7")
    assert len(reason_kind("x" * 1000)) == 120
