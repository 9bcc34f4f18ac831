"""The engine with a real local Ray and stub models."""

import importlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from jobs.cli import main
from pipeline.annotator import Annotator
from pipeline.config import AnnotateConfig
from pipeline.engine import ray_start
from pipeline.engine.actors import ATTEMPTS, Engine, default_threads
from pipeline.engine.progress import Progress, format_duration
from pipeline.engine.ray_start import start_ray
from pipeline.engine.schedule import split_batches
from pipeline.engine.worker import Task, Worker
from pipeline.errors import UserError
from pipeline.records import AnnotatedImage, records_to_table
from pipeline.sources import find_images
from pipeline.store.fingerprint import fingerprint_parts
from pipeline.store.log import LOG_FILE
from pipeline.store.run import SHARDS_FOLDER, Run
from pipeline.store.writer import RunWriter
from tests.stub_models import (
    CRASH,
    HANG,
    ONTOLOGY,
    RAISE,
    SEGFAULT,
    SLOW,
    build_deadly,
    build_dying,
    build_failing,
    build_for,
    build_stub,
    save_image,
)

PARTS = fingerprint_parts(AnnotateConfig(), ONTOLOGY, "d", "s")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Keep one Ray for all tests of this module: an engine uses the one that is there."""
    start_ray(3)
    yield
    ray.shutdown()


def label(
    folder: Path,
    output: Path,
    size: int = 4,
    workers: int = 1,
    build: Callable[[], Annotator] = build_stub,
    stopping: Callable[[], bool] = lambda: False,
    image_timeout: float | None = None,
) -> Run:
    found = find_images(folder)
    with (
        RunWriter(output, PARTS, ONTOLOGY, found.root, AnnotateConfig()) as writer,
        Engine(build, workers=workers, threads=1, use_gpu=False) as engine,
    ):
        done = set(writer.index.ids.tolist())
        todo = [ref for ref in found.refs if int(ref.image_id, 16) not in done]
        task = Task(str(found.root), output, writer.fingerprint, image_timeout)
        engine.run(split_batches(todo, size), task, writer, Progress(len(todo), shown=False), stopping)
    return Run.open(output)


def rows(run: Run) -> bytes:
    """All label rows of a run, as bytes."""
    sink = io.BytesIO()
    table = records_to_table(list(run.records()), run.fingerprint)
    for column in table.to_pylist():
        sink.write(repr(column).encode())
    return sink.getvalue()


@pytest.mark.usefixtures("local_ray")
def test_workers_and_batches_make_the_same_rows(tmp_path: Path) -> None:
    for row in range(13):
        save_image(tmp_path / f"images/{row}.png", green=row % 3 == 0, hw=(12, 16) if row % 2 else (20, 16))
    one = label(tmp_path / "images", tmp_path / "one")
    two = label(tmp_path / "images", tmp_path / "two", size=3, workers=2)
    assert one.counts() == two.counts()
    assert one.counts().ok == 13
    assert one.counts().per_class == {"red thing": 13, "green thing": 5}
    assert rows(one) == rows(two)
    before = sorted(path.name for path in (tmp_path / "one" / SHARDS_FOLDER).iterdir())
    save_image(tmp_path / "images/new.png")
    again = label(tmp_path / "images", tmp_path / "one")
    added = {path.name for path in (tmp_path / "one" / SHARDS_FOLDER).iterdir()} - set(before)
    assert len(added) == 1
    assert again.counts().ok == 14


@pytest.mark.usefixtures("local_ray")
def test_an_image_that_kills_its_worker_fails_alone(tmp_path: Path) -> None:
    for row in range(8):
        save_image(tmp_path / f"images/{row}.png")
    save_image(tmp_path / "images/3.png", CRASH)
    save_image(tmp_path / "images/6.png", RAISE)
    run = label(tmp_path / "images", tmp_path / "run")
    reasons = {record.path: record.reason for record in run.failed()}
    assert reasons == {
        "3.png": "its worker process was killed by SIGKILL (from outside, or for want of memory) "
        f"{ATTEMPTS} times while it held this image alone",
        "6.png": "detector: ValueError: this image is not to my taste",
    }
    assert [record.path for record in run.records()] == [f"{row}.png" for row in range(8)]
    assert sorted(len(entry.ids) for entry in run.entries) == [1, 1, 1, 1, 4]


@pytest.mark.usefixtures("local_ray")
def test_the_signal_is_told_and_an_image_that_hangs_is_given_up(tmp_path: Path) -> None:
    for row, mark in enumerate((0, SEGFAULT, HANG, 0)):
        save_image(tmp_path / f"images/{row}.png", mark)
    run = label(tmp_path / "images", tmp_path / "run", size=2, image_timeout=6.0)
    assert {record.path: record.reason for record in run.failed()} == {
        "1.png": f"its worker process was killed by SIGSEGV {ATTEMPTS} times while it held this image alone",
        "2.png": "no result within 6 s (--image-timeout)",
    }
    assert run.counts().ok == 2
    died = [json.loads(line) for line in (run.folder / LOG_FILE).read_text().splitlines()]
    signals = [event["signal"] for event in died if event["event"] == "worker died"]
    assert signals.count("hang") in (1, 2, 3)  # in company, as a batch, alone
    assert signals.count("SIGSEGV") >= ATTEMPTS
    assert all("_detect" in event["note"] for event in died if event.get("signal") == "SIGSEGV")


@pytest.mark.usefixtures("local_ray")
def test_a_committed_batch_is_not_computed_again(tmp_path: Path) -> None:
    for row in range(4):
        save_image(tmp_path / f"images/{row}.png")
    run = label(tmp_path / "images", tmp_path / "run", build=build_dying)
    assert (tmp_path / "died").exists()
    assert [len(entry.ids) for entry in run.entries] == [4]
    assert len(list((tmp_path / "run" / SHARDS_FOLDER).iterdir())) == 1


@pytest.mark.usefixtures("local_ray")
def test_stopping_keeps_what_is_done(tmp_path: Path) -> None:
    for row in range(12):
        save_image(tmp_path / f"images/{row:02}.png", SLOW)
    shards = tmp_path / "run" / SHARDS_FOLDER
    run = label(tmp_path / "images", tmp_path / "run", size=2, stopping=lambda: any(shards.iterdir()))
    assert 2 <= run.counts().ok < 12
    assert label(tmp_path / "images", tmp_path / "run", size=2).counts().ok == 12


@pytest.mark.usefixtures("local_ray")
def test_models_that_do_not_load_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(tmp_path / "images/0.png")
    with pytest.raises(UserError, match="weights of the model stub are not on this machine"):
        label(tmp_path / "images", tmp_path / "run", build=build_failing)
    with pytest.raises(UserError, match="died while loading the models, most likely for want of memory"):
        label(tmp_path / "images", tmp_path / "run", build=build_deadly)
    # A module that this process finds, and a worker does not.
    (tmp_path / "only_here.py").write_text("from tests.stub_models import build_stub\ndef build(): return build_stub()")
    monkeypatch.syspath_prepend(tmp_path)
    only_here = importlib.import_module("only_here")
    with pytest.raises(UserError, match=r"a worker cannot import .*No module named 'only_here'.*PYTHONPATH"):
        label(tmp_path / "images", tmp_path / "run", build=only_here.build)
    assert label(tmp_path / "images", tmp_path / "run").counts().ok == 1


@pytest.mark.usefixtures("local_ray")
def test_the_bench_compares_two_workers_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.build.build_annotator", build_for)
    assert main(["bench", "engine", "--workers", "2", "--n", "4", "--rounds", "2"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    number, name = r"\d+\.\d+", "engine with 2 workers over one worker, median of 2: "
    assert len(lines) == 2
    assert all(re.fullmatch(rf"round \d: engine .*; one worker .*; ratio {number}", line) for line in lines)
    assert re.fullmatch(rf"{name}{number} of the images/s, {number} of the CPU time", last)
    assert main(["bench", "engine", "--workers", "2", "--device", "cuda"]) == 2


@pytest.mark.usefixtures("local_ray")
def test_models_that_fail_on_everything_end_the_run(tmp_path: Path) -> None:
    for row in range(4):
        save_image(tmp_path / f"images/{row}.png", RAISE)
    with pytest.raises(UserError, match="the models failed on each of 4 images"):
        label(tmp_path / "images", tmp_path / "run")
    assert Run.open(tmp_path / "run").counts().total == 0


@pytest.mark.usefixtures("local_ray")
def test_ray_asks_for_a_token() -> None:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    assert is_token_auth_enabled()
    script = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR'); print('joined')"
    address = ray.get_runtime_context().gcs_address
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    stranger |= {"RAY_AUTH_MODE": "disabled", "RAY_gcs_rpc_server_connect_timeout_s": "1"}
    words = [sys.executable, "-c", script, address]
    done = subprocess.run(words, env=stranger, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "joined" not in done.stdout
    assert "InvalidAuthToken" in done.stderr


@pytest.mark.usefixtures("local_ray")
def test_a_run_folder_that_cannot_be_written(tmp_path: Path) -> None:
    for row in range(2):
        save_image(tmp_path / f"images/{row}.png")
    found = find_images(tmp_path / "images")
    with (
        RunWriter(tmp_path / "run", PARTS, ONTOLOGY, found.root, AnnotateConfig()) as writer,
        Engine(build_stub, workers=1, threads=1, use_gpu=False) as engine,
    ):
        task = Task(str(found.root), tmp_path / "gone", writer.fingerprint)
        with pytest.raises(UserError, match="gone: cannot be written"):
            engine.run(split_batches(found.refs, 2), task, writer, Progress(2, shown=False))


def test_worker_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    save_image(tmp_path / "images/0.png")
    refs = find_images(tmp_path / "images").refs
    with RunWriter(tmp_path / "run", PARTS, ONTOLOGY, tmp_path / "images", AnnotateConfig()) as writer:
        task = Task(str(tmp_path / "images"), tmp_path / "run", writer.fingerprint)
        worker = Worker(build_stub, 3)
        assert os.environ["OMP_NUM_THREADS"] == "3"
        with pytest.raises(RuntimeError, match="before prepare"):
            worker.annotate(refs, task)
        assert worker.prepare() == os.getpid()
        entry = worker.annotate(refs, task)
        assert entry is not None
        assert entry.ok_ids == (refs[0].image_id,)
        writer.add(entry)
        worker.stop()
        assert worker.annotate(refs, task) is None
    record = next(Run.open(tmp_path / "run").records())
    assert isinstance(record, AnnotatedImage)
    assert np.array_equal(record.instances.detections.boxes_xyxy, [[0, 0, 8, 12]])


@pytest.mark.usefixtures("local_ray")
def test_ray_starts_no_more_than_it_needs() -> None:
    assert set(ray._private.worker._global_node.all_processes) == {"gcs_server", "raylet"}
    assert ray._private.node.Node.__module__ == "ray._private.node"  # what was replaced for the start is back


def test_a_node_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def get_node(address: str, node: str) -> dict[str, str]:
        calls.append((address, node))
        if len(calls) < 3:
            raise RuntimeError("GCS cannot find the node")
        return {"node": node}

    monkeypatch.setattr(ray_start, "_get_node", get_node)
    with ray_start.lean_nodes():
        assert ray._private.services.get_node("host:1", "n") == {"node": "n"}
    assert calls == [("host:1", "n")] * 3
    monkeypatch.setattr(ray_start, "_NODE_SECONDS", 0)
    calls.clear()
    with ray_start.lean_nodes(), pytest.raises(RuntimeError, match="cannot find"):
        ray._private.services.get_node("host:1", "n")


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (2, 3), (3, 3)])
def test_ray_gets_three_attempts_to_start(monkeypatch: pytest.MonkeyPatch, failures: int, starts: int) -> None:
    class SlowNode(ray._private.node.Node):
        killed = 0

        def __init__(self) -> None:
            raise Exception("The current node timed out during startup.")

        def kill_all_processes(
            self, check_alive: bool = True, allow_graceful: bool = False, wait: bool = False
        ) -> None:
            SlowNode.killed += 1

    calls = []

    def init(**options: object) -> None:
        calls.append(options)
        if len(calls) <= failures:
            SlowNode()

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", print)
    if failures == 3:
        with pytest.raises(UserError, match="Ray did not start in 3 attempts"):
            start_ray(1)
    else:
        start_ray(1)
    assert len(calls) == starts
    assert SlowNode.killed == failures
    assert calls[0]["address"] == "local"


@pytest.mark.parametrize("alive", [True, False])
def test_a_ray_that_died_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    engine = Engine(build_stub)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": alive}])
    engine._check_ray()  # of somebody else: its nodes may come back
    monkeypatch.setattr(engine, "_connected", True)
    if alive:
        engine._check_ray()
    else:
        with pytest.raises(UserError, match="run the same command again to go on"):
            engine._check_ray()


def test_default_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert default_threads(2) == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert default_threads(2) == 4
    assert default_threads(20) == 1


def test_progress_lines() -> None:
    now = [0.0]
    stream = io.StringIO()
    with Progress(100, stream, clock=lambda: now[0]) as progress:
        for _ in range(8):
            now[0] += 10
            progress.advance(5, [("a.png", "broken")])
        now[0] += 100
        progress.tick()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "15 of 100 images, 0.50 images/s, 2 min 50 s left, 3 failed"
    assert len(lines) == 3
    assert progress.done == 40
    silent = io.StringIO()
    Progress(1, silent, shown=False).advance(1)
    assert silent.getvalue() == ""


def test_progress_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress(4, stream) as progress:
        progress.advance(4, [("a.png", "broken")])
    assert "4/4" in stream.getvalue()
    assert "1 failed" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7380, "2 h 3 min"), (90000, "1 d 1 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
