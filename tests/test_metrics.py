"""Metrics during a run, and where the workers' time went."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.engine.metrics import HOST, render, serve_metrics
from pipeline.engine.profile import ALIVE, IDLE, WAIT, WRITE, Profile, WorkerClock, describe_profile
from pipeline.engine.progress import Progress
from pipeline.engine.worker import Task, Worker
from pipeline.errors import UserError
from pipeline.sources import find_images
from pipeline.store.manifest import read_manifest
from pipeline.store.status import RUNNING, RunStatus, WorkerStatus
from pipeline.store.summary import write_summary
from tests.store_runs import label, open_writer, save_images
from tests.stub_models import SLOW, build_stub, save_image

STATUS = RunStatus(RUNNING, "here", 1, 0.0, 5.0, listed=9, todo=8, done=4, failed=1, rate=2.5, deaths=2, error_time=3.5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def read(port: int, path: str = "/metrics") -> dict[str, float]:
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples}


def test_metrics_follow_the_status() -> None:
    status, port = STATUS, free_port()
    with serve_metrics(port, lambda: status):
        first = read(port)
        status = replace(STATUS, done=6, workers=(WorkerStatus(7, 3, 1.0), WorkerStatus(0, 0, 1.0)))
        second = read(port)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(port, "/etc/passwd")
        with (
            pytest.raises(UserError, match=f"--metrics-port {port}: cannot be used"),
            serve_metrics(port, lambda: status),
        ):
            pass
        listens = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
        assert f"0100007F:{port:04X}" in listens
        assert f"00000000:{port:04X}" not in listens
    assert (first["groundlabel_images_done_total"], first["groundlabel_images_failed_total"]) == (4, 1)
    assert (first["groundlabel_images_per_second"], first["groundlabel_last_error_timestamp_seconds"]) == (2.5, 3.5)
    assert (first["groundlabel_workers"], second["groundlabel_workers"]) == (0, 2)
    assert (second["groundlabel_workers_ready"], second["groundlabel_images_in_hand"]) == (1, 3)
    assert (second["groundlabel_images_done_total"], second["groundlabel_worker_deaths_total"]) == (6, 2)
    with pytest.raises(urllib.error.URLError):
        read(port)


def test_without_a_port_nothing_listens() -> None:
    before = threading.active_count()
    with serve_metrics(None, lambda: STATUS):
        assert threading.active_count() == before
    assert render(STATUS).endswith("\n")


def test_the_clock_of_a_worker() -> None:
    now = [0.0]
    clock = WorkerClock(lambda: now[0])
    now[0] = 2.0
    with clock.working():
        now[0] = 3.0
        with clock.working():
            now[0] = 5.0
        now[0] = 6.0
    assert clock.take() == {ALIVE: 6.0, IDLE: 2.0}
    now[0] = 10.0
    with clock.working():
        now[0] = 11.0
    assert clock.take() == {ALIVE: 5.0, IDLE: 4.0}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ({"detect": 50, "segment": 30, WAIT: 10, IDLE: 5}, "The models bound the run: the detector alone takes 50%"),
        ({"detect": 10, "segment": 60, WAIT: 10, IDLE: 5}, "the segmenter alone takes 60%"),
        ({"detect": 20, "segment": 5, WAIT: 60, IDLE: 5}, "Reading images bounds the run: the models waited for 60%"),
        ({"detect": 20, "segment": 5, WAIT: 5, IDLE: 60}, "Handing out work bounds the run"),
        ({"detect": 20, "segment": 25, WAIT: 5, IDLE: 5}, "Nothing bounds the run alone: 45% of the time"),
    ],
)
def test_what_bounds_a_run_is_said(seconds: dict[str, float], words: str) -> None:
    profile = Profile.from_seconds({ALIVE: 100.0, "decode": 20, "encode": 2, WRITE: 1, **seconds}, 10)
    assert profile is not None
    assert words in profile.bound
    assert sum(profile.shares.values()) == pytest.approx(1)
    assert profile.beside == {"decode": 0.2, "encode": 0.02, WRITE: 0.01}
    shown = describe_profile(profile.to_dict())
    assert shown[0] == "100.0 s of the workers for 10 images (10.000 s an image):"
    assert shown[-1] == profile.bound


def test_without_measures_there_is_no_profile() -> None:
    assert Profile.from_seconds({"detect": 3.0}, 4) is None
    assert Profile.from_seconds({ALIVE: 3.0}, 0) is None


def test_a_worker_measures_what_it_does(tmp_path: Path) -> None:
    for row in range(2):
        save_image(tmp_path / f"images/{row}.png", mark=SLOW)
    refs = find_images(tmp_path / "images").refs
    with open_writer(tmp_path / "images", tmp_path / "run") as writer:
        worker = Worker(build_stub, 1)
        worker.prepare()
        time.sleep(0.3)
        entry = worker.annotate(refs, Task(str(tmp_path / "images"), tmp_path / "run", writer.fingerprint))
        assert entry is not None
        writer.add(entry)
        progress = Progress(2, shown=False)
        progress.seconds.update(entry.seconds)
        profile = Profile.from_seconds(progress.seconds, 2)
        assert profile is not None
        writer.finish(1.0, 2, profile.to_dict())
    assert entry.seconds["detect"] >= 0.9
    assert entry.seconds[IDLE] >= 0.25
    assert entry.seconds[ALIVE] >= entry.seconds["detect"] + entry.seconds[IDLE]
    assert 0 < entry.seconds[WRITE] < entry.seconds[ALIVE]
    (kept,) = read_manifest(tmp_path / "run")
    assert kept.seconds == entry.seconds
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["last_call"]["profile"]["images"] == 2
    assert "## Where the workers' time went in the last call" in (tmp_path / "run/summary.md").read_text()


def test_a_call_without_work_reads_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = label(save_images(tmp_path / "images", 5, bad=[3]), tmp_path / "run").folder
    whole = write_summary(run, 1.0, 5)
    monkeypatch.setattr("pipeline.store.summary.read_manifest", None)
    assert write_summary(run, 9.0, 0) == whole
    assert [row.path for row in whole.failed] == ["003.png"]
    monkeypatch.undo()
    (run / "failed.csv").unlink()
    assert write_summary(run, 9.0, 0) == whole
    with (run / "manifest.jsonl").open("ab") as stream:
        stream.write(b"torn")
    assert write_summary(run, 9.0, 0) == whole
    assert json.loads((run / "summary.json").read_text())["last_call"]["seconds"] == 1.0
    monkeypatch.setattr("pipeline.store.summary.read_manifest", None)
    with pytest.raises(TypeError):
        write_summary(run, 9.0, 0)
