"""What there is to do, found in the background: which images are new, changed, unchanged or gone.

Listing millions of files takes minutes, and labelling need not wait for it: a thread lists, compares with what the run
has, and puts the images to do into a file without a name in the run's folder (it cannot be left behind), from which
batches are taken meanwhile. So memory does not grow with paths; an image costs some bytes of sorted ids.

An image of the run counts as unchanged when its file has the size and time that were noted with its row. Where they
differ, or with `verify_content` anyway, the content decides.
"""

import os
import tempfile
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.addresses import is_address, root_to_address
from pipeline.config import AnnotateConfig
from pipeline.engine.schedule import Batch
from pipeline.file_state import UNKNOWN_STAMP, read_content_hash, read_stamp, read_stamps
from pipeline.paths import path_to_image_id
from pipeline.sources import ImageRef, ImageSource
from pipeline.store.index import IdIndex, Ids, IdSet, paths_to_numbers
from pipeline.store.shards import read_timings
from pipeline.store.writer import RunWriter

_FIRST_CHUNK, _CHUNK = 1024, 8192
"""Images that are compared at once: few at first, so that there soon is one to do, then more, which is quicker."""
_SHARDS_REMEMBERED = 32
_WAIT_SECONDS = 0.2


class Spool:
    """References in the order in which they were put, in a file that vanishes with the process.

    Args:
        folder: Where the file is, without a name; None means the system's folder for such files.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._blocks: deque[tuple[int, int]] = deque()
        self._end = 0

    def put(self, refs: list[tuple[int, ImageRef]]) -> None:
        """Add references with their places in the listing; from one thread.

        Raises:
            OSError: The disk is full.
        """
        block = "\0".join(f"{ref.image_id}{place:x} {ref.path}" for place, ref in refs).encode()
        rest = memoryview(block)
        while rest:
            rest = rest[os.pwrite(self._file.fileno(), rest, self._end + len(block) - len(rest)) :]
        self._blocks.append((self._end, len(block)))
        self._end += len(block)

    def take(self) -> list[tuple[int, ImageRef]]:
        """Return the next block, empty when there is none now; from one other thread."""
        if not self._blocks:
            return []
        start, size = self._blocks.popleft()
        block = os.pread(self._file.fileno(), size, start)
        return [_parse(text) for text in block.decode().split("\0")]

    def close(self) -> None:
        """Close and lose the file."""
        self._file.close()


def _parse(text: str) -> tuple[int, ImageRef]:
    place, _, path = text[16:].partition(" ")
    return int(place, 16), ImageRef(text[:16], path)


class Listing:
    """Lists the images of a call in a thread of its own, as a context manager.

    Args:
        source: What was asked for; read once.
        index: The images that the run has.
        run_folder: The run; it need not exist where the index is empty.
        config: `limit`, `shard` and `verify_content` are used.
        whole: What the run has and the source has not is gone; False where the source is only a part.
        spool_folder: Where the file without a name is.

    Attributes:
        listed: Images so far.
        new: Without a row so far.
        changed: With a row, and another content since.
        unchanged: With a row that holds.
    """

    def __init__(
        self,
        source: ImageSource,
        index: IdIndex,
        run_folder: Path,
        config: AnnotateConfig,
        whole: bool = True,
        spool_folder: Path | None = None,
    ) -> None:
        self.listed = self.new = self.changed = self.unchanged = 0
        self._source = source
        self._root = str(source.root)
        self._run_folder = run_folder
        self._limit = config.limit
        self._part = config.part
        self._verify_content = config.verify_content
        self._whole = whole and config.limit is None and config.shard is None
        self._index = index
        self._seen = np.zeros(len(index), bool)
        self._listed_ids = IdSet()
        self._stamps: dict[int, int] = {}
        self._contents: OrderedDict[int, dict[str, str]] = OrderedDict()
        self._changed_ids: list[int] = []
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="listing", daemon=True)
        self._fresh = Spool(spool_folder)
        self._again = Spool(spool_folder)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._fresh.close()
        self._again.close()

    @property
    def done(self) -> bool:
        """All images were listed."""
        return not self._thread.is_alive()

    @property
    def todo(self) -> int:
        """Images to compute, as far as listed."""
        return self.new + self.changed

    @property
    def vanished(self) -> int:
        """Images of the run that were not listed; 0 where only some were to be."""
        return int(len(self._seen) - self._seen.sum()) if self._whole and self.done else 0

    def wait_listed(self, images: int, stopping: Callable[[], bool]) -> int:
        """Wait until so many images were listed, or all, or it should stop; returns how many were, at most that many.

        Raises:
            UserError: Something that was asked for is wrong.
            OSError: The disk is full.
        """
        self._wait(lambda: self.listed >= images or stopping())
        return min(self.listed, images)

    def wait(self, images: int, stopping: Callable[[], bool] = lambda: False) -> int:
        """Wait until so many images are to be done, all were listed, or it should stop; returns how many are.

        Raises:
            UserError: Something that was asked for is wrong.
            OSError: The disk is full.
        """
        self._wait(lambda: self.todo >= images or stopping())
        return self.todo

    def _wait(self, enough: Callable[[], bool]) -> None:
        with self._progress:
            while self._thread.is_alive() and not enough():
                self._progress.wait(_WAIT_SECONDS)
        self._raise_error()

    def batches(self, size: int, writer: RunWriter) -> Iterator[Batch | None]:
        """Yield what is to be done, the new images first; None whenever the listing must go on before.

        Rows of changed images are taken out of the run when all images were listed, just before they are given out.

        Args:
            size: Most images in a batch.
            writer: Holds the run.

        Raises:
            UserError: Something that was asked for is wrong.
            OSError: The disk is full.
        """
        yield from _batches(self._blocks(), size)
        writer.restamp(self._stamps)
        if self._changed_ids:
            writer.drop_rows(np.array(self._changed_ids, np.uint64))
            yield from _batches(iter(self._again.take, []), size)

    def all_todo(self) -> Iterator[ImageRef]:
        """Yield what is to be done, changed images last; waits for the listing.

        Raises:
            UserError: Something that was asked for is wrong.
        """
        self._thread.join()
        self._raise_error()
        for spool in (self._fresh, self._again):
            for block in iter(spool.take, []):
                yield from (ref for _, ref in block)

    def _blocks(self) -> Iterator[list[tuple[int, ImageRef]] | None]:
        while True:
            listed_all = self.done
            block = self._fresh.take()
            if block:
                yield block
            elif listed_all:
                break
            else:
                yield None
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            paths, size = self._source.paths, _FIRST_CHUNK
            while chunk := list(islice(paths, size)):
                size = min(2 * size, _CHUNK)
                if self._stop.is_set() or not self._sort_out(chunk):
                    break
                with self._progress:
                    self._progress.notify_all()
            empty = not self.listed and not self._stop.is_set() and self._part == (0, 1)
            if empty and not self._source.may_be_empty:
                raise self._source.nothing_found()
        except Exception as error:  # whatever it is, the main thread raises it
            self._error = error

    def _sort_out(self, paths: list[str]) -> bool:
        """Compare paths with the run; returns whether more are wanted."""
        numbers = paths_to_numbers(paths)
        part, parts = self._part
        rows = np.flatnonzero(numbers % np.uint64(parts) == part)
        places = self._index.find(numbers[rows])
        if not self._source.unique:
            first = self._come_first(numbers[rows], places)
            rows, places = rows[first], places[first]
        if self._limit is not None:
            rows, places = rows[: self._limit - self.listed], places[: self._limit - self.listed]
        self._seen[places[places >= 0]] = True
        doubted = np.flatnonzero(places >= 0)
        doubted = doubted[~self._stand([paths[row] for row in rows[doubted].tolist()], places[doubted])]
        fresh = [self._place(position, paths[rows[position]]) for position in np.flatnonzero(places < 0).tolist()]
        again = []
        for position in doubted.tolist():
            path = paths[rows[position]]
            if not self._holds(path, int(places[position])):
                again.append(self._place(position, path))
                self._changed_ids.append(int(numbers[rows[position]]))
        if fresh:
            self._fresh.put(fresh)
        if again:
            self._again.put(again)
        self.new += len(fresh)
        self.changed += len(again)
        self.unchanged += len(rows) - len(fresh) - len(again)
        self.listed += len(rows)
        return self._limit is None or self.listed < self._limit

    def _come_first(self, numbers: Ids, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which images were not listed before.

        Args:
            numbers: (N,) their ids; N may be 0.
            places: (N,) in the index, -1 for one that the run does not have.

        Returns:
            (N,): True for the first of equal ids that was not listed.
        """
        known = places >= 0
        first = np.zeros(len(numbers), bool)
        first[~known] = self._listed_ids.add(numbers[~known])
        rows = np.flatnonzero(known)
        _, once = np.unique(places[rows], return_index=True)
        first[rows[once]] = ~self._seen[places[rows[once]]]
        return first

    def _place(self, position: int, path: str) -> tuple[int, ImageRef]:
        return self.listed + position, ImageRef.from_path(path)

    def _stand(self, paths: list[str], places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which images of the run need no closer look.

        Args:
            paths: N of them; N may be 0.
            places: (N,) in the index.

        Returns:
            (N,): True where the file's size and time are as they were noted, nothing was noted, or it is elsewhere.
        """
        noted = self._index.stamps[places]
        if root_to_address(self._root):
            return np.ones(len(paths), bool)
        stands: NDArray[np.bool_] = (noted == UNKNOWN_STAMP) | np.fromiter(map(is_address, paths), bool, len(paths))
        if self._verify_content:
            return stands
        stands |= read_stamps([f"{self._root}/{path}" for path in paths]) == noted
        return stands

    def _holds(self, path: str, place: int) -> bool:
        """Tell whether the file of an image is the one that its row was made from."""
        noted = int(self._index.stamps[place])
        path, image_id = f"{self._root}/{path}", path_to_image_id(path)
        stamp = read_stamp(path)
        if stamp == noted and not self._verify_content:
            return True
        before = self._content_of(int(self._index.shards[place]), image_id)
        if stamp != noted and not before:
            return False
        if before and read_content_hash(path) != before:
            return False
        if stamp != noted:
            self._stamps[int(self._index.ids[place])] = stamp
        return True

    def _content_of(self, shard: int, image_id: str) -> str:
        """Return the content hash that was noted with a row; empty where none was."""
        if shard not in self._contents:
            times = read_timings(self._run_folder, self._index.names[shard])
            columns = ([], []) if times is None else (times.column("image_id"), times.column("content"))
            self._contents[shard] = {str(key): str(value) for key, value in zip(*columns, strict=True)}
            if len(self._contents) > _SHARDS_REMEMBERED:
                self._contents.popitem(last=False)
        return self._contents[shard].get(image_id, "")


def _batches(blocks: Iterator[list[tuple[int, ImageRef]] | None], size: int) -> Iterator[Batch | None]:
    """Cut the listing into batches at every `size`-th place, so that a call that goes on makes the same ones.

    What is left of batches of which some images have rows already is put together.
    """
    number, held, rest = -1, list[ImageRef](), list[ImageRef]()
    for block in blocks:
        if block is None:
            yield None
            continue
        for place, ref in block:
            if place // size != number:
                if len(held) == size:
                    yield Batch(tuple(held))
                else:
                    rest += held
                number, held = place // size, []
            held.append(ref)
        while len(rest) >= size:
            yield Batch(tuple(rest[:size]))
            rest = rest[size:]
    for last in (held, rest):
        if last:
            yield Batch(tuple(last))
