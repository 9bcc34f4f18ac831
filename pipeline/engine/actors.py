"""The workers as Ray actors, and the loop that feeds them. The only module that imports Ray."""

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from pipeline.annotator import Annotator
from pipeline.engine.deaths import Death, read_death
from pipeline.engine.progress import Progress
from pipeline.engine.schedule import Batch, Schedule
from pipeline.engine.worker import Task, Worker
from pipeline.errors import UserError
from pipeline.records import FailedImage
from pipeline.store.manifest import ShardEntry
from pipeline.store.output import explain_os_error
from pipeline.store.shards import describe_shard, shard_name
from pipeline.store.status import LOADING, RUNNING, STOPPING, WorkerStatus
from pipeline.store.writer import RunWriter

CRASHES = (RayActorError, WorkerCrashedError, OutOfMemoryError)
ATTEMPTS = 3
"""Workers that a single image may kill, and workers in a row that may die while they load the models."""
_WAIT_SECONDS = 1.0
_LISTING_SECONDS = 0.1
_OBJECT_STORE_BYTES = 100 * 1024**2


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
    """

    def __init__(
        self,
        build: Callable[[], Annotator],
        workers: int | None = None,
        threads: int | None = None,
        use_gpu: bool = True,
    ) -> None:
        self._build = build
        self._wanted = workers
        self._threads = threads
        self._use_gpu = use_gpu
        self._actors: dict[int, Any] = {}
        self._pids: dict[int, int] = {}
        self._calls: dict[Any, _Call] = {}
        self._next_index = 0
        self._deaths_while_loading = 0
        self._owns_ray = False

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            start_ray(self._wanted or os.cpu_count() or 1)
            self._owns_ray = True
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(resources.get("GPU", 0)) if self._use_gpu else 0
        self.workers = self._wanted or max(gpus, 1)
        self._gpus_each = min(1.0, gpus / self.workers)
        self.threads = self._threads or default_threads(self.workers)
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
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def _start_worker(self) -> None:
        options = {"num_cpus": 1, "num_gpus": self._gpus_each, "max_concurrency": 4, "max_restarts": 0}
        actor_class: Any = ray.remote(Worker)
        actor = actor_class.options(**options).remote(self._build, self.threads, _name(self._next_index))
        self._actors[self._next_index] = actor
        self._calls[actor.prepare.remote()] = _Call(self._next_index, None)
        self._next_index += 1

    def wait_until_ready(self) -> None:
        """Wait until all workers have loaded their models.

        Raises:
            UserError: The models cannot be loaded, or a worker died while it loaded them.
        """
        for ref in list(self._calls):
            try:
                self._pids[self._calls[ref].worker] = ray.get(ref)
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
        run = _Run(schedule, task, writer, progress)
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
        if self._owns_ray and not any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
            raise UserError(
                "Ray's own process on this machine has died, most likely for want of memory. "
                "Everything written so far is kept: run the same command again to go on"
            )

    def _describe_workers(self) -> tuple[WorkerStatus, ...]:
        now, found = time.monotonic(), []
        for index in self._actors:
            calls = [call for call in self._calls.values() if call.worker == index]
            images = sum(len(call.batch.refs) for call in calls if call.batch is not None)
            since = min((call.since for call in calls), default=now)
            found.append(WorkerStatus(self._pids.get(index, 0), images, round(now - since, 1)))
        return tuple(found)

    def _feed(self, run: "_Run") -> None:
        for index in run.schedule.workers:
            while (batch := run.schedule.take(index)) is not None:
                ref = self._actors[index].annotate.remote(batch.refs, run.task)
                self._calls[ref] = _Call(index, batch)
                run.progress.give(len(batch.refs))

    def _end(self, ref: Any, run: "_Run") -> None:
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
            self._pids[call.worker] = result
            run.schedule.add_worker(call.worker)
            return
        run.schedule.finish(call.worker, call.batch)
        if result is not None:
            run.note(result)

    def _replace(self, index: int, run: "_Run", error: Exception) -> None:
        """Start a worker for one that died, and save or queue again what it had."""
        was_loading = any(call.worker == index and call.batch is None for call in self._calls.values())
        self._calls = {ref: call for ref, call in self._calls.items() if call.worker != index}
        ray.kill(self._actors.pop(index), no_restart=True)
        death = read_death(run.task.run_folder, _name(index))
        run.note_death(self._pids.pop(index, 0), death, was_loading)
        if was_loading:
            self._deaths_while_loading += 1
            if self._deaths_while_loading >= ATTEMPTS:
                raise _cannot_load(ATTEMPTS, error) from error
        else:
            run.recover(run.schedule.lose_worker(index), death)
        self._start_worker()


@dataclass
class _Run:
    """One call of `Engine.run`."""

    schedule: Schedule
    task: Task
    writer: RunWriter
    progress: Progress

    def note(self, entry: ShardEntry) -> None:
        """Make a committed shard part of the run."""
        self.writer.add(entry)
        for path, reason in entry.failures:
            self.writer.record("image failed", path=path, reason=reason)
        self.progress.advance(entry.rows, entry.failures)

    def note_death(self, pid: int, death: Death, loading: bool) -> None:
        """Write into the log that a worker died, and of what."""
        self.writer.record("worker died", pid=pid, signal=death.signal, loading=loading, note=death.note)
        self.progress.lose(f"worker {pid} died of {death.signal}")

    def recover(self, lost: list[Batch], death: Death) -> None:
        """Save what a dead worker committed and queue the rest again, or give it up.

        Args:
            lost: All batches that were in flight at the worker; may be empty.
            death: How the worker died.
        """
        for batch in lost:
            name = shard_name(ref.image_id for ref in batch.refs)
            entry = describe_shard(self.task.run_folder, name, self.task.fingerprint)
            if entry is not None:
                self.note(entry)
                continue
            given_up = self.schedule.suspect(batch, alone=len(lost) == 1, final=death.hung)
            if given_up is not None:
                reason = death.describe(self.task.image_timeout, ATTEMPTS)
                for ref in given_up.refs:
                    failed = self.writer.commit_failure(FailedImage(ref.image_id, ref.path, reason), self.task.root)
                    self.note(failed)


def _name(index: int) -> str:
    """Return the name of a worker of this process."""
    return f"{os.uname().nodename}-{os.getpid()}-{index}"


def start_ray(cpus: int) -> None:
    """Start a Ray of our own on this machine, without dashboard and logs; it ends with `ray.shutdown()`.

    Args:
        cpus: Workers that may run at once; Ray starts as many processes ahead.

    Raises:
        UserError: The machine is too busy for Ray to start in time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            break
        except Exception as error:
            # A bare Exception, when Ray's own processes got too little CPU time to come up: its limits are fixed.
            if "timed out during startup" not in str(error):
                raise
            _kill_half_started(error)
            if attempt == ATTEMPTS:
                raise UserError(
                    f"Ray did not start in {ATTEMPTS} attempts; this machine is too busy with other programs. "
                    "Everything written so far is kept: run the same command again later"
                ) from error
    # Ray prints a paragraph on stdout for each worker that dies; the engine deals with those.
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None


def _kill_half_started(error: Exception) -> None:
    """End the processes of a Ray node that did not come up; only the failed constructor's frame still knows them."""
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, ray._private.node.Node):
            owner.kill_all_processes(check_alive=False, allow_graceful=False)
        trace = trace.tb_next


def default_threads(workers: int) -> int:
    """Return the CPU threads of each worker: `OMP_NUM_THREADS` where it is set, else the cores shared out."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else max(len(os.sched_getaffinity(0)) // workers, 1)


def _cannot_load(deaths: int, error: Exception) -> UserError:
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
