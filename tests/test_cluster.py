"""A cluster: what its nodes must have and see, and a run through the loss of one."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import AnnotateConfig
from pipeline.engine.actors import ATTEMPTS, Engine
from pipeline.engine.cluster import (
    Place,
    answers,
    check_sights,
    describe_openness,
    describe_waiting,
    leave_probe,
    look,
    parse_resources,
)
from pipeline.engine.progress import Progress
from pipeline.engine.ray_start import START_ATTEMPTS, join_ray, kill_half_started, lean_nodes, make_token
from pipeline.engine.schedule import split_batches
from pipeline.engine.worker import Task
from pipeline.errors import UserError
from pipeline.listing import Listing
from pipeline.sources import find_images, open_images
from pipeline.store.log import LOG_FILE
from pipeline.store.run import SHARDS_FOLDER, Run
from pipeline.store.verify import verify_run
from tests.store_runs import label, open_writer, rows
from tests.stub_models import SLOW, build_stub, save_image

LEAN = {"object_store_memory": 80 * 1024**2, "include_log_monitor": False}
HEAD = {**LEAN, "num_cpus": 0, "include_dashboard": False, "no_monitor": True}
NODE = {**LEAN, "num_cpus": 2, "num_gpus": 1, "resources": {"labeller": 2}}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a head on which no worker fits, with a token; nodes are added by the test."""
    import ray
    from ray._private.authentication.authentication_token_setup import enable_token_auth_by_default
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # through the client, no path of ours gets there
    monkeypatch.setenv("RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", "120")
    make_token()
    assert enable_token_auth_by_default()
    started = Cluster()
    try:
        add_node(started, **HEAD)
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


def serve_clients(head: Any) -> str:
    """Start what serves `ray://` on a head, and return its address; on a busy machine it may end before it is up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = head._ray_params.ray_client_server_port = server.getsockname()[1]
    for _ in range(ATTEMPTS):
        head.all_processes.pop("ray_client_server", None)
        head.start_ray_client_server()
        process = head.all_processes["ray_client_server"][0].process
        while process.poll() is None:
            if answers("127.0.0.1", port):
                return f"ray://127.0.0.1:{port}"
            time.sleep(0.2)
    raise AssertionError("the client server does not start")


def add_node(cluster: Any, **options: Any) -> Any:
    """Start a node; Ray gives it a fixed time, which a busy machine may exceed."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with lean_nodes():
                return cluster.add_node(**options)
        except Exception as error:
            if attempt == ATTEMPTS or "timed out during startup" not in str(error):
                raise
            kill_half_started(error)


@pytest.mark.timeout(500)
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_dies_in_mid_run_changes_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, output = tmp_path / "images", tmp_path / "run"
    for row in range(16):
        save_image(images / f"{row:02}.png", mark=SLOW, green=row % 3 == 0)
    quiet = label(images, tmp_path / "quiet", size=2)
    first = add_node(cluster, **NODE)

    progress = Progress(14, shown=False)
    nodes = [first]

    def exchange_nodes() -> bool:
        """Kill the node in mid-run, and add another one when its workers were missed; never ask to stop."""
        if nodes == [first] and len(list((output / SHARDS_FOLDER).glob("*.parquet"))) >= 4:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        elif not nodes and progress.deaths >= 2:
            nodes.append(add_node(cluster, **NODE))
        return False

    # First some of it through the client server, which needs no more than that one port.
    client = Place(serve_clients(cluster.head_node), gpus_per_worker=0.5, resources={"labeller": 1})
    with open_writer(images, output) as writer, Engine(build_stub, 1, threads=1, place=client) as engine:
        engine.check_folders(output, str(images))
        task = Task(str(images), output, writer.fingerprint)
        engine.run(split_batches(find_images(images).refs[:2], 2), task, writer, Progress(2, shown=False))
    assert rows(Run.open(output)) == rows(quiet)[:2]

    place = Place("auto", gpus_per_worker=0.5, resources={"labeller": 1})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)  # where `auto` looks first: there may be other Rays here
    with (
        open_writer(images, output) as writer,
        Listing(open_images(images), writer.index, output, AnnotateConfig(), spool_folder=output) as listing,
        Engine(build_stub, threads=1, place=place) as engine,
    ):
        monkeypatch.delenv("RAY_ADDRESS")
        assert engine.workers == 2
        engine.check_folders(output, str(images))
        with pytest.raises(UserError, match=r"node [\d.]+ \(.*\) does not see the images in"):
            engine.check_folders(output, "/proc/self/task")
        listing.wait(14)
        task = Task(str(images), output, writer.fingerprint)
        engine.run(listing.batches(2, writer), task, writer, progress, exchange_nodes)
        writer.finish(1.0, writer.added)
    assert nodes not in ([], [first])
    assert not verify_run(output).problems
    assert rows(Run.open(output)) == rows(quiet)
    events = [json.loads(line) for line in (output / LOG_FILE).read_text().splitlines()]
    died = [event for event in events if event["event"] == "worker died"]
    assert len(died) >= 2
    assert {event["signal"] for event in died} == {"lost node"}
    assert all(event["node"] for event in died)


def test_each_worker_takes_its_part_of_a_gpu() -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 4.0}, {"CPU": 8.0}]
    cluster = Place("auto")
    assert cluster.count_workers(nodes, use_gpu=True) == 3
    assert Place("auto", gpus_per_worker=0.5).count_workers(nodes, use_gpu=True) == 5
    assert Place("auto", gpus_per_worker=2).count_workers(nodes[:1], use_gpu=True) == 1
    assert cluster.count_workers(nodes, use_gpu=False) == 3
    assert cluster.count_workers([], use_gpu=True) == 1
    assert Place().count_workers([{"CPU": 8.0}] * 2, use_gpu=True) == 1
    assert Place().count_workers([{"CPU": 8.0, "GPU": 4.0}], use_gpu=True) == 4
    labelled = Place("auto", resources={"labeller": 0.5})
    assert labelled.count_workers([{"CPU": 8.0, "labeller": 1.0}, {"CPU": 8.0}], use_gpu=True) == 1
    assert [Place().gpu_share(workers, 2) for workers in (1, 2, 3, 4, 5)] == [1, 1, 0.5, 0.5, 1 / 3]
    assert (Place().gpu_share(4, 0), Place("auto", 0.25).gpu_share(4, 2)) == (0, 0.25)


def test_workers_are_added_with_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}]
    monkeypatch.setattr("ray.nodes", lambda: nodes)

    def grow(engine: Engine, seconds: float) -> int:
        """Let time pass, and return how many workers there are then."""
        monkeypatch.setattr(engine, "_start_worker", lambda: engine._actors.setdefault(len(engine._actors), None))
        engine._gpus_each, engine._grown = 0.5, engine._grown - seconds
        engine._grow()
        return len(engine._actors)

    engine = Engine(build_stub, place=Place("auto", gpus_per_worker=0.5))
    assert [grow(engine, 0), grow(engine, 60), grow(engine, 60)] == [0, 2, 2]
    nodes.append(nodes[0])
    assert [grow(engine, 0), grow(engine, 60)] == [2, 4]
    del nodes[0]
    assert grow(engine, 60) == 4  # those of the lost node wait for another
    assert grow(Engine(build_stub, workers=1, place=Place("auto", gpus_per_worker=0.5)), 60) == 0
    assert grow(Engine(build_stub), 60) == 0


def test_places() -> None:
    assert not Place().joined
    assert not Place("local").joined
    assert Place("host:6379").joined
    assert Place("ray://host:10001").through_client


@pytest.mark.parametrize("text", ["labeller", "=1", "a=0", "a=-1", "a=x", "a=1.5", "GPU=1", "CPU=2", "a=inf"])
def test_resources_that_are_wrong(text: str) -> None:
    with pytest.raises(UserError, match="--resources"):
        parse_resources(text)


def test_resources() -> None:
    assert parse_resources("") == {}
    assert parse_resources("labeller=1, big=0.5,") == {"labeller": 1.0, "big": 0.5}
    with pytest.raises(UserError, match=r"--gpus-per-worker 1\.5: must be a whole number, or below 1"):
        AnnotateConfig(gpus_per_worker=1.5)


def test_what_a_node_must_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, images = tmp_path / "run", tmp_path / "images"
    run.mkdir()
    save_image(images / "a.png")
    with leave_probe(run, str(images)) as probe:
        assert look(probe) == ""
        (images / "a.png").rename(images / "b.png")
        assert "does not see the images in" in look(probe)
        (run / probe.name).write_text("of another run")
        assert "does not see the run folder" in look(probe, patience=0)
        monkeypatch.setattr("pipeline.engine.cluster.package_version", lambda: "0.0.1")
        assert "has groundlabel 0.0.1, not" in look(probe)
    assert list(run.iterdir()) == []
    with leave_probe(run, "") as probe:
        assert look(probe) == ""


def test_a_network_disk_may_lag_behind(tmp_path: Path) -> None:
    with leave_probe(tmp_path, "") as probe:
        (tmp_path / probe.name).unlink()
        writing = threading.Timer(0.7, (tmp_path / probe.name).write_text, [probe.text])
        writing.start()
        assert look(probe, patience=8) == ""
        writing.join()


def test_the_node_is_named() -> None:
    check_sights({"10.0.0.1 (one)": "", "10.0.0.2 (two)": ""})
    with pytest.raises(UserError, match=r"node 10.0.0.2 \(two\) does not see the run folder$"):
        check_sights({"10.0.0.1 (one)": "", "10.0.0.2 (two)": "does not see the run folder"})
    with pytest.raises(UserError, match="1 more of 3 nodes"):
        check_sights({"a": "", "b": "is wrong", "c": "is wrong"})


def test_an_open_ray_is_warned_about() -> None:
    assert describe_openness(["127.0.0.1", "::1", "localhost"], with_token=False) == ""
    assert describe_openness(["10.0.0.1"], with_token=True) == ""
    text = describe_openness(["127.0.0.1", "10.0.0.1"], with_token=False)
    assert "listens beyond this machine (10.0.0.1) and asks for no token" in text
    assert "RAY_AUTH_MODE=token" in text


def test_a_cluster_without_room_is_told() -> None:
    needs = Place("auto", resources={"labeller": 1}).needs(0.5)
    assert describe_waiting([{"CPU": 4.0, "GPU": 1.0, "labeller": 2.0}], needs) == ""
    assert "no node of the cluster has 1 CPU, 0.5 GPU, 1 labeller" in describe_waiting([{"CPU": 4.0}], needs)


def test_whether_a_node_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers("127.0.0.1", port)
    assert not answers("127.0.0.1", port)


@pytest.mark.parametrize("alive", [True, False])
def test_a_death_with_its_node_is_told_from_one_alone(alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"NodeID": "n", "Alive": alive, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": 1}
    monkeypatch.setattr("ray.nodes", lambda: [node])
    engine = Engine(build_stub, place=Place("auto"))
    engine._note_worker(3, (77, "n"))
    assert engine._lost_node(3) == "127.0.0.1"  # nothing listens there, whatever is said of it
    monkeypatch.setattr("pipeline.engine.actors.answers", lambda host, port: True)
    assert engine._lost_node(3) == ("" if alive else "127.0.0.1")
    assert Engine(build_stub)._lost_node(3) == ""
    monkeypatch.setattr("pipeline.engine.actors.answers", lambda host, port: False)
    through = Engine(build_stub, place=Place("ray://host:10001"))
    through._note_worker(3, (77, "n"))
    assert through._lost_node(3) == ("" if alive else "127.0.0.1")


def test_a_cluster_that_cannot_be_joined_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    reason, calls = "Failed to connect to Ray cluster\nand more", 0

    def refuse(**_: object) -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError(reason)

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(
        UserError, match=r"--address host:1: the cluster cannot be joined \(Failed to connect to Ray cl"
    ):
        join_ray("host:1")
    with pytest.raises(UserError, match=r"The port is that of its client server, 10001 if nobody"):
        join_ray("ray://host:1")
    assert calls == 2
    reason = (
        "Initialization failure from server:\nTraceback\nRuntimeError: Starting Ray client server failed. See a.err"
    )
    with pytest.raises(UserError, match=r"joined \(RuntimeError: Starting Ray client server failed\. See a\.err\)"):
        join_ray("ray://host:1")  # what a busy head says is tried again
    assert calls == 2 + START_ATTEMPTS
    monkeypatch.setattr("pipeline.engine.ray_start.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ray://host:1: needs the package grpcio: pip install 'ray\[client\]'"):
        join_ray("ray://host:1")
