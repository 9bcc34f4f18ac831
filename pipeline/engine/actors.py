"""The workers as Ray actors, and the loop that feeds them. See `ray_start` for where Ray comes from."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from models.devices import GpuUse, read_gpu_use
from pipeline.annotator import Annotator
from pipeline.engine.cluster import (
    Place,
    Probe,
    answers,
    check_sights,
    describe_waiting,
    fits,
    leave_probe,
    look,
)
from pipeline.engine.deaths import read_death
from pipeline.engine.progress import Progress
from pipeline.engine.ray_start import join_ray, living_nodes, start_ray, warn
from pipeline.engine.results import Results
from pipeline.engine.schedule import Batch, Schedule
from pipeline.engine.worker import Task, Worker
from pipeline.errors import UserError
from pipeline.sources import ImageRef
from pipeline.store.manifest import ShardEntry
from pipeline.store.output import explain_os_error
from pipeline.store.status import LOADING, RUNNING, STOPPING, WorkerStatus
from pipeline.store.writer import RunWriter

CRASHES = (RayActorError, WorkerCrashedError, OutOfMemoryError, NodeDiedError, ObjectLostError)
ATTEMPTS = 3
"""Workers that a single image may kill, and workers in a row that may die while they load the models."""
_WAIT_SECONDS = 1.0
_LISTING_SECONDS = 0.1
_GROW_SECONDS = 5.0
_LOOK_SECONDS = 120.0
"""Time for a node to start a process and look at the run's folder."""


@dataclass
class _Call:
    """A running call: of `prepare` when there is no batch."""

    worker: int
    batch: Batch | None
    since: float = field(default_factory=time.monotonic)


class Engine:
    """Ray and its workers, as a context manager; several runs may follow each other on the same workers.

    Args:
        build: Makes a worker's annotator; pickled by reference, so a function of an importable module.
        workers: Processes; None means one a GPU, or one.
        threads: CPU threads a worker; None shares `OMP_NUM_THREADS` or the cores among the workers.
        use_gpu: False hides all GPUs from the workers.
        place: Where they run; by default a Ray of our own on this machine.

    Raises:
        UserError: On entering: the cluster cannot be joined, or Ray does not start.
    """

    def __init__(
        self,
        build: Callable[[], Annotator],
        workers: int | None = None,
        threads: int | None = None,
        use_gpu: bool = True,
        place: Place | None = None,
    ) -> None:
        self._place = place or Place()
        self._build = build
        self._wanted = workers
        self._threads = threads
        self._use_gpu = use_gpu
        self._actors: dict[int, Any] = {}
        self._pids: dict[int, int] = {}
        self._gpus: dict[int, GpuUse | None] = {}
        self._nodes: dict[int, set[str]] = {}  # where a worker is, or may be while it starts
        self._grown = time.monotonic()
        self._calls: dict[Any, _Call] = {}
        self._next_index = 0
        self._deaths_while_loading = 0
        self._connected = False

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            if self._place.joined:
                join_ray(self._place.address)
            else:
                start_ray(self._wanted or os.cpu_count() or 1)
            self._connected = True
        nodes = [node["Resources"] for node in living_nodes()]
        gpus = sum(node.get("GPU", 0) for node in nodes) if self._use_gpu else 0
        self.workers = self._wanted or self._place.count_workers(nodes, self._use_gpu)
        self._gpus_each = self._place.gpu_share(self.workers, gpus) if self._use_gpu else 0.0
        self.threads = self._threads or self._share_threads(nodes)
        if self._place.joined:
            warn(describe_waiting(nodes, self._place.needs(self._gpus_each)))
        try:
            for _ in range(self.workers):
                self._start_worker()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            ray.kill(actor, no_restart=True)
        self._actors.clear()
        self._calls.clear()
        if self._connected:
            ray.shutdown()
            self._connected = False

    def _share_threads(self, nodes: list[dict[str, float]]) -> int:
        if not self._place.joined:
            return default_threads(self.workers)
        return max(int(sum(node.get("CPU", 0) for node in nodes) // self.workers), 1)

    def _start_worker(self) -> None:
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": self._gpus_each, "max_concurrency": 4, "max_restarts": 0}
        if self._place.joined:
            options |= {"scheduling_strategy": "SPREAD", "resources": dict(self._place.resources)}
            self._nodes[self._next_index] = {node["NodeID"] for node in living_nodes()}
        actor_class: Any = ray.remote(_Actor)
        actor = actor_class.options(**options).remote(self._build, self.threads, _name(self._next_index))
        self._actors[self._next_index] = actor
        self._calls[actor.begin.remote()] = _Call(self._next_index, None)
        self._next_index += 1

    def check_folders(self, run_folder: Path, images_root: str) -> None:
        """Make sure that each node of a cluster on which workers may run sees the run and the images.

        Args:
            run_folder: Of the run, which exists.
            images_root: Folder of the images.

        Raises:
            UserError: A node does not; names it.
        """
        if not self._place.joined:
            return
        needs = self._place.needs(self._gpus_each)
        with leave_probe(run_folder, images_root) as probe:
            nodes = [node for node in living_nodes() if fits(node["Resources"], needs)]
            check_sights(_look_from(nodes, probe))

    def wait_until_ready(self) -> None:
        """Wait until all workers have loaded their models.

        Raises:
            UserError: The models cannot be loaded, or a worker died while it loaded them.
        """
        for ref in list(self._calls):
            try:
                self._note_worker(self._calls[ref].worker, ray.get(ref))
            except CRASHES as error:
                raise _cannot_load(1, error) from error
            except RayTaskError as error:
                raise _explain_loading(error) from error
            del self._calls[ref]

    def cpu_seconds(self) -> float:
        """Return the CPU time that the workers of this engine have used; not that of Ray's own processes."""
        return float(sum(ray.get([actor.cpu_seconds.remote() for actor in self._actors.values()])))

    def run(
        self,
        batches: Iterable[Batch | None],
        task: Task,
        writer: RunWriter,
        progress: Progress,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Label all batches and note their shards in the run.

        Args:
            batches: Taken lazily; None says that there is none just now.
            task: What they have in common.
            writer: Holds the run.
            progress: Is told of each shard.
            stopping: Asked about once a second; once it says yes, workers commit what they have and the call returns.

        Raises:
            UserError: The models cannot be loaded or fail on everything, or the run folder cannot be written.
            RuntimeError: A worker failed in a way that is no fault of the input.
        """
        schedule = Schedule(batches, attempts=ATTEMPTS)
        run = Results(schedule, task, writer, progress, ATTEMPTS)
        loading = {call.worker for call in self._calls.values()}
        for index in self._actors:
            if index not in loading:
                schedule.add_worker(index)
        while True:
            if stopping() and not schedule.stopped:
                schedule.stop()
                for actor in self._actors.values():
                    actor.stop.remote()
            self._feed(run)
            if schedule.finished:
                return
            writer.tick()
            progress.state = STOPPING if schedule.stopped else RUNNING if schedule.workers else LOADING
            progress.workers = self._describe_workers()
            progress.tick()
            if not schedule.workers:
                self._check_ray()
            self._grow()
            if not self._calls:  # all is listed later than it is labelled
                time.sleep(_LISTING_SECONDS)
                continue
            ended, _ = ray.wait(list(self._calls), num_returns=1, timeout=_WAIT_SECONDS)
            for ref in ended:
                self._end(ref, run)

    def _check_ray(self) -> None:
        """Raise when our own Ray is no more: workers would be waited for in vain.

        Raises:
            UserError: Its process on this machine has died.
        """
        if self._connected and not self._place.joined and not living_nodes():
            raise UserError(
                "Ray's own process on this machine has died, most likely for want of memory. "
                "Everything written so far is kept: run the same command again to go on"
            )

    def _grow(self) -> None:
        """Start more workers where nodes were added to a cluster and nobody said how many there should be."""
        if self._wanted or not self._place.joined or time.monotonic() - self._grown < _GROW_SECONDS:
            return
        self._grown = time.monotonic()
        nodes = [node["Resources"] for node in living_nodes()]
        for _ in range(len(self._actors), self._place.count_workers(nodes, self._use_gpu and self._gpus_each > 0)):
            self._start_worker()

    def _lost_node(self, index: int) -> str:
        """Return the address of the node with which a worker of a cluster was lost; empty where it died by itself."""
        if not self._place.joined:
            return ""
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if node["NodeID"] in self._nodes.get(index, set()) and self._is_lost(node):
                return str(node["NodeManagerAddress"])
        return ""

    def _is_lost(self, node: dict[str, Any]) -> bool:
        if not node["Alive"]:
            return True
        return not self._place.through_client and not answers(node["NodeManagerAddress"], node["NodeManagerPort"])

    def _note_worker(self, index: int, begun: tuple[int, str]) -> None:
        self._pids[index], self._nodes[index] = begun[0], {begun[1]}

    def _describe_workers(self) -> tuple[WorkerStatus, ...]:
        now, found = time.monotonic(), []
        for index in self._actors:
            calls = [call for call in self._calls.values() if call.worker == index]
            images = sum(len(call.batch.refs) for call in calls if call.batch is not None)
            since = min((call.since for call in calls), default=now)
            gpu = self._gpus.get(index)
            use = (gpu.percent, gpu.used_bytes, gpu.memory_bytes) if gpu is not None else ()
            found.append(WorkerStatus(self._pids.get(index, 0), images, round(now - since, 1), *use))
        return tuple(found)

    def _feed(self, run: Results) -> None:
        for index in run.schedule.workers:
            while (batch := run.schedule.take(index)) is not None:
                ref = self._actors[index].label.remote(batch.refs, run.task)
                self._calls[ref] = _Call(index, batch)
                run.progress.give(len(batch.refs))

    def _end(self, ref: Any, run: Results) -> None:
        """Deal with a call that ended."""
        call = self._calls[ref]
        try:
            result = ray.get(ref)
        except CRASHES as error:
            self._replace(call.worker, run, error)
            return
        except RayTaskError as error:
            raise (_explain_loading(error) if call.batch is None else _explain(error, run.task)) from error
        del self._calls[ref]
        if call.batch is None:
            self._deaths_while_loading = 0
            self._note_worker(call.worker, result)
            run.schedule.add_worker(call.worker)
            return
        run.schedule.finish(call.worker, call.batch)
        entry, self._gpus[call.worker] = result
        if entry is not None:
            run.note(entry)

    def _replace(self, index: int, run: Results, error: Exception) -> None:
        """Start a worker for one that died, and save or queue again what it had."""
        was_loading = any(call.worker == index and call.batch is None for call in self._calls.values())
        self._calls = {ref: call for ref, call in self._calls.items() if call.worker != index}
        ray.kill(self._actors.pop(index), no_restart=True)
        death = read_death(run.task.run_folder, _name(index))
        node = "" if death.note else self._lost_node(index)
        self._nodes.pop(index, None)
        self._gpus.pop(index, None)
        run.note_death(self._pids.pop(index, 0), death, was_loading, node)
        if was_loading:
            self._deaths_while_loading += not node
            if _was_not_imported(error) or self._deaths_while_loading >= ATTEMPTS:
                raise _cannot_load(self._deaths_while_loading, error) from error
        else:
            run.recover(run.schedule.lose_worker(index), death, blameless=bool(node))
        self._start_worker()


class _Actor(Worker):
    """A worker that knows on which node of Ray it is, and how busy its GPU."""

    def begin(self) -> tuple[int, str]:
        """Load the models; returns the process id and the node's id."""
        return self.prepare(), ray.get_runtime_context().get_node_id()

    def label(self, refs: tuple[ImageRef, ...], task: Task) -> tuple[ShardEntry | None, GpuUse | None]:
        """Label a batch and commit it, as `annotate`; returns what that does, and the use of the GPU."""
        return self.annotate(refs, task), read_gpu_use()


def _look_from(nodes: list[dict[str, Any]], probe: Probe) -> dict[str, str]:
    """Look at the probe from each node; returns what `look` said, by the node's address and name."""
    looking: Any = ray.remote(look)
    calls = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ref = looking.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(probe)
        calls[ref] = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
    ready = ray.wait(list(calls), num_returns=len(calls), timeout=_LOOK_SECONDS)[0] if calls else []
    sights = {}
    for ref, name in calls.items():
        if ref not in ready:
            sights[name] = (
                f"did not start a process within {_LOOK_SECONDS:g} s; take it out of the cluster, or try again"
            )
            continue
        try:
            sights[name] = str(ray.get(ref))
        except CRASHES:
            continue  # it went away just now
        except Exception as error:  # Ray wraps what a node cannot import in errors of several kinds
            cause = str(error).strip().splitlines()[-1]
            sights[name] = f"cannot run groundlabel ({cause}); install the same version on every node"
    return sights


def _name(index: int) -> str:
    """Return the name of a worker of this process."""
    return f"{os.uname().nodename}-{os.getpid()}-{index}"


def default_threads(workers: int) -> int:
    """Return the CPU threads of each worker: `OMP_NUM_THREADS` where it is set, else the cores shared out."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else max(len(os.sched_getaffinity(0)) // workers, 1)


def _was_not_imported(error: Exception) -> bool:
    """Tell whether a worker's process started and could not make our actor, which takes nothing but imports."""
    return isinstance(error, RayActorError) and error.actor_init_failed


def _cannot_load(deaths: int, error: Exception) -> UserError:
    if _was_not_imported(error):
        cause = str(error).strip().splitlines()[-1].strip()
        return UserError(
            f"a worker cannot import groundlabel or what it is given ({cause}); install groundlabel where the workers "
            "run, or name its folder in PYTHONPATH before Ray starts"
        )
    return UserError(
        f"{deaths} worker(s) died while loading the models, most likely for want of memory; "
        f"try fewer --workers or smaller models ({str(error).splitlines()[0]})"
    )


def _explain_loading(error: RayTaskError) -> Exception:
    """Return the exception to raise for one that came from loading the models: the user's names and files count."""
    if isinstance(error.cause, ValueError | OSError):
        return UserError(str(error.cause))
    return RuntimeError(f"a worker cannot load the models: {type(error.cause).__name__}: {error.cause}")


def _explain(error: RayTaskError, task: Task) -> Exception:
    """Return the exception to raise for one that came from labelling a batch."""
    if isinstance(error.cause, OSError):
        return explain_os_error(error.cause, task.run_folder)
    if isinstance(error.cause, UserError):
        return UserError(str(error.cause))
    return RuntimeError(f"a worker failed: {type(error.cause).__name__}: {error.cause}")
