"""What becomes of the batches that workers return, and of those whose worker died."""

from dataclasses import dataclass

from pipeline.engine.deaths import Death
from pipeline.engine.progress import Progress
from pipeline.engine.schedule import Batch, Schedule
from pipeline.engine.worker import Task
from pipeline.records import FailedImage
from pipeline.store.manifest import ShardEntry
from pipeline.store.shards import describe_shard, shard_name
from pipeline.store.writer import RunWriter


@dataclass
class Results:
    """What comes back in one call of `Engine.run`.

    Attributes:
        schedule: Which worker gets what.
        task: What the batches have in common.
        writer: Holds the run.
        progress: Is told of each shard.
        attempts: Workers that a single image may kill.
    """

    schedule: Schedule
    task: Task
    writer: RunWriter
    progress: Progress
    attempts: int

    def note(self, entry: ShardEntry) -> None:
        """Make a committed shard part of the run."""
        self.writer.add(entry)
        for path, reason in entry.failures:
            self.writer.record("image failed", path=path, reason=reason)
        self.progress.seconds.update(entry.seconds)
        self.progress.advance(entry.rows, entry.failures)

    def note_death(self, pid: int, death: Death, loading: bool, node: str = "") -> None:
        """Write into the log that a worker died, and of what.

        Args:
            pid: Its process.
            death: How it died.
            loading: It was loading the models.
            node: The node that was lost with it; empty where it died by itself.
        """
        cause = "lost node" if node else death.signal
        self.writer.record("worker died", pid=pid, signal=cause, loading=loading, note=death.note, node=node)
        self.progress.lose(f"worker {pid} died {'with node ' + node if node else 'of ' + death.signal}")

    def recover(self, lost: list[Batch], death: Death, blameless: bool = False) -> None:
        """Save what a dead worker committed and queue the rest again, or give it up.

        Args:
            lost: All batches that were in flight at the worker; may be empty.
            death: How the worker died.
            blameless: It died with its node, of which no image is guilty.
        """
        for batch in lost:
            name = shard_name(ref.image_id for ref in batch.refs)
            entry = describe_shard(self.task.run_folder, name, self.task.fingerprint)
            if entry is not None:
                self.note(entry)
                continue
            given_up = self.schedule.suspect(batch, alone=len(lost) == 1 and not blameless, final=death.hung)
            if given_up is not None:
                reason = death.describe(self.task.image_timeout, self.attempts)
                for ref in given_up.refs:
                    failed = self.writer.commit_failure(FailedImage(ref.image_id, ref.path, reason), self.task.root)
                    self.note(failed)
