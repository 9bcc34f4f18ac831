"""The mirror of a run: a whole run at every moment, wherever the driver dies, and the way on from it."""

import hashlib
import io
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import pipeline.store.mirror
import pipeline.store.mirror_files
import pipeline.store.remote
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.listing import Listing
from pipeline.paths import path_to_image_id
from pipeline.sources import open_images
from pipeline.store.durable import write_file
from pipeline.store.index import ids_to_numbers
from pipeline.store.log import LOG_FILE
from pipeline.store.manifest import MANIFEST_NAME, removal_line, scan_manifest
from pipeline.store.mirror import Mirror
from pipeline.store.remote import RemoteError, RemoteFolder
from pipeline.store.run import REVIEWED_FOLDER, RUN_FILE, SHARDS_FOLDER, TIMINGS_FOLDER, Run
from pipeline.store.verify import verify_run
from pipeline.store.writer import RunWriter
from tests.store_runs import CONFIG, PARTS, label, label_batches, open_writer, rows, save_images
from tests.stub_models import save_image

SIZE = 2
SESSION = "000000000000001-0123abcd.parquet"


class Breaks:
    """Counts the changes to a file system, breaks some of them, and looks at the run after each."""

    count: ClassVar[int] = 0
    broken: ClassVar[Callable[[int], bool]] = staticmethod(lambda number: False)
    late: ClassVar[bool] = False
    """A broken change has its effect all the same; of a file that is written in place, half of it."""
    top: ClassVar[str] = ""
    lock: ClassVar[threading.Lock] = threading.Lock()

    def _change(self, change: Callable[[], object], torn: Callable[[], object]) -> None:
        with Breaks.lock:
            Breaks.count += 1
            if Breaks.broken(Breaks.count):
                if Breaks.late:
                    torn()
                self.check()
                raise ConnectionResetError("the line is dead")
            change()
            self.check()

    def check(self) -> None:
        """Check that each shard that the manifest names is there, with its content."""
        system: Any = self
        if not system.exists(f"{Breaks.top}/{MANIFEST_NAME}"):
            return
        content = system.cat_file(f"{Breaks.top}/{MANIFEST_NAME}")
        lines = content.splitlines(keepends=True)
        state = scan_manifest(io.BytesIO(content))
        assert not state.torn
        assert not state.damaged
        assert system.exists(f"{Breaks.top}/{RUN_FILE}")
        for name, number in state.lines.items():
            shard = system.cat_file(f"{Breaks.top}/{SHARDS_FOLDER}/{name.decode()}")
            assert hashlib.sha256(shard).hexdigest() == json.loads(lines[number])["sha256"]


class Store(Breaks, MemoryFileSystem):  # type: ignore[misc]
    """An object store."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        def put() -> None:
            MemoryFileSystem.pipe_file(self, path, value, **options)

        self._change(put, put)

    def _rm(self, path: str) -> None:
        self._change(lambda: MemoryFileSystem._rm(self, path), lambda: MemoryFileSystem._rm(self, path))


class Folder(Breaks, LocalFileSystem):  # type: ignore[misc]
    """A folder, in which a file may be seen half written."""

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        target = Path(path)
        self._change(lambda: target.write_bytes(value), lambda: target.write_bytes(value[: len(value) // 2]))

    def mv(self, old: str, new: str, **options: Any) -> None:
        self._change(lambda: Path(old).replace(new), lambda: Path(old).replace(new))

    def rm_file(self, path: str) -> None:
        self._change(Path(path).unlink, Path(path).unlink)


@pytest.fixture(params=["memory", "file"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Register a file system that may break; gives the address of a mirror on it."""
    scheme = request.param
    old = fsspec.get_filesystem_class(scheme)
    fsspec.register_implementation(scheme, Store if scheme == "memory" else Folder, clobber=True)
    monkeypatch.setattr(pipeline.store.remote, "_WAIT_SECONDS", 0.0)
    Store.store.clear()
    Store.pseudo_dirs[:] = [""]
    Breaks.top = "/bucket/run" if scheme == "memory" else f"{tmp_path}/bucket/run"
    heal()
    yield f"{scheme}:/{Breaks.top}" if scheme == "memory" else f"file://{Breaks.top}"
    heal()
    fsspec.register_implementation(scheme, old, clobber=True)


def break_from(first: int, late: bool = False) -> None:
    """Break all changes from one on, as when the machine of the driver is gone."""
    Breaks.count, Breaks.late, Breaks.broken = 0, late, staticmethod(lambda number: number >= first)


def heal() -> None:
    """Break nothing."""
    Breaks.count, Breaks.late, Breaks.broken = 0, False, staticmethod(lambda number: False)


def mirrored(images: Path, output: Path, address: str, config: AnnotateConfig = CONFIG) -> tuple[int, int, str]:
    """Label with a mirror, which is sent to after each shard; returns images labelled, shards fetched, and `finish`."""
    with Mirror(address, output) as mirror:
        fetched = mirror.prepare(PARTS, images, config.overwrite)
        with (
            open_writer(images, output, config) as writer,
            Listing(open_images(images), writer.index, output, config, spool_folder=output) as listing,
        ):
            mirror.begin(config.overwrite)
            for _ in label_batches(images, output, writer, listing, SIZE):
                with suppress(RemoteError):
                    mirror.send()
            writer.finish(1.0, writer.added)
            return writer.added, fetched, mirror.finish()


def download(address: str, target: Path) -> Path:
    """Copy a mirror as any tool would; returns the copy."""
    system, top = fsspec.url_to_fs(address)
    for path in system.find(top):
        file = target / path[len(top) :].strip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(system.cat_file(path))
    return target


def shards(run_folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_folder / SHARDS_FOLDER).iterdir()}


def assert_whole(address: str, copy: Path, images: int) -> Run:
    """Check that a mirror is a run that holds, with nothing besides; returns a copy of it."""
    found = verify_run(download(address, copy))
    assert (found.images, found.problems, found.notes) == (images, [], [])
    return Run.open(copy)


@pytest.mark.parametrize(
    ("address", "late"), [("memory", False), ("memory", True), ("file", True)], indirect=["address"]
)
def test_a_mirror_is_whole_wherever_its_driver_dies(address: str, late: bool, tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 3, bad=[1])
    quiet = label(images, tmp_path / "quiet", SIZE)
    assert mirrored(images, tmp_path / "run", address) == (3, 0, "")
    changes = Breaks.count
    assert changes > 10
    assert rows(assert_whole(address, tmp_path / "copy", 3)) == rows(quiet)
    top = Breaks.top
    for number in range(1, changes + 1):
        output, place = tmp_path / f"run{number}", f"{address}{number}"
        Breaks.top = f"{top}{number}"
        break_from(number, late)
        with suppress(UserError):
            assert mirrored(images, output, place)[2]
        heal()
        if number % 2:  # on another machine
            output = tmp_path / f"other{number}"
        assert mirrored(images, output, place)[2] == ""
        assert shards(output) == shards(quiet.folder)
        whole = assert_whole(place, tmp_path / f"copy{number}", 3)
        assert shards(whole.folder) == shards(quiet.folder)


def test_another_machine_goes_on(address: str, tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 5)
    assert mirrored(images, tmp_path / "one", address, replace(CONFIG, limit=2)) == (2, 0, "")
    (tmp_path / "one" / REVIEWED_FOLDER).mkdir()
    (tmp_path / "one" / REVIEWED_FOLDER / SESSION).write_bytes(b"a session")
    assert mirrored(images, tmp_path / "one", address, replace(CONFIG, limit=2)) == (0, 0, "")
    assert mirrored(images, tmp_path / "two", address) == (3, 1, "")
    assert (tmp_path / "two" / REVIEWED_FOLDER / SESSION).read_bytes() == b"a session"
    # The first one comes back: it takes over what the second has made, and the session that went on there.
    (tmp_path / "two" / REVIEWED_FOLDER / SESSION).write_bytes(b"a session that went on")
    assert mirrored(images, tmp_path / "two", address) == (0, 0, "")
    assert mirrored(images, tmp_path / "one", address) == (0, 2, "")
    assert (tmp_path / "one" / REVIEWED_FOLDER / SESSION).read_bytes() == b"a session that went on"
    assert shards(tmp_path / "one") == shards(tmp_path / "two")
    shutil.rmtree(tmp_path / "two")
    (tmp_path / "two").mkdir()
    assert mirrored(images, tmp_path / "two", address) == (0, 3, "")
    assert_whole(address, tmp_path / "copy", 5)


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_a_fetch_that_was_broken_off_goes_on(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, output = save_images(tmp_path / "images", 5, bad=[4]), tmp_path / "new"
    mirrored(images, tmp_path / "run", address)

    def breaking_at(folder: str) -> Callable[[Path, bytes], None]:
        def write_or_break(path: Path, content: bytes) -> None:
            if path.parent.name == folder or path.name == folder:
                raise KeyboardInterrupt
            write_file(path, content)

        return write_or_break

    for place in (TIMINGS_FOLDER, SHARDS_FOLDER, RUN_FILE):
        monkeypatch.setattr(pipeline.store.mirror_files, "write_file", breaking_at(place))
        with pytest.raises(KeyboardInterrupt):
            mirrored(images, output, address)
        assert not (output / RUN_FILE).exists()
    monkeypatch.setattr(
        pipeline.store.mirror_files, "write_parts", lambda path, parts: breaking_at(path.name)(path, b"")
    )
    monkeypatch.setattr(pipeline.store.mirror_files, "write_file", write_file)
    with pytest.raises(KeyboardInterrupt):  # without the manifest, which comes last
        mirrored(images, output, address)
    monkeypatch.undo()
    assert mirrored(images, output, address)[0] == 0
    assert shards(output) == shards(tmp_path / "run")
    assert verify_run(output).problems == []
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not a run \(it has mine\.txt\)"):
        mirrored(images, tmp_path / "photos", address)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["mine.txt"]


def test_a_changed_run_brings_its_mirror_into_line(address: str, tmp_path: Path) -> None:
    images, output = save_images(tmp_path / "images", 5, bad=[1, 4]), tmp_path / "run"
    mirrored(images, output, address)
    # The shard of 004.png keeps its name and gets another content, as its images stay the same.
    name = next(entry.shard for entry in Run.open(output).entries if entry.rows == 1)
    before = (output / SHARDS_FOLDER / name).read_bytes()
    for row in (1, 4):
        save_image(images / f"{row:03}.png")
    with RunWriter.reopen(output) as writer:
        assert writer.drop_rows(ids_to_numbers(path_to_image_id(f"{row:03}.png") for row in (1, 4))) == 2
    assert mirrored(images, output, address) == (2, 0, "")
    whole = assert_whole(address, tmp_path / "retried", 5)
    assert shards(whole.folder)[name] != before
    # Compacted: one shard takes the place of all.
    with RunWriter.reopen(output) as writer:
        assert writer.compact(100)[1] == 1
    assert mirrored(images, output, address) == (0, 0, "")
    whole = assert_whole(address, tmp_path / "compacted", 5)
    assert len(shards(whole.folder)) == 1
    assert rows(whole) == rows(Run.open(output))
    # What a repair takes out comes back from the mirror; what the mirror has lost is sent again.
    (name,) = shards(output)
    (output / SHARDS_FOLDER / name).write_bytes(b"damaged")
    assert verify_run(output, repair=True).repaired == 1
    assert mirrored(images, output, address) == (0, 1, "")
    system, top = fsspec.url_to_fs(address)
    Breaks.top = ""
    system.rm_file(f"{top}/{SHARDS_FOLDER}/{name}")
    assert mirrored(images, output, address) == (0, 0, "")
    assert rows(assert_whole(address, tmp_path / "repaired", 5)) == rows(whole)


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_what_passes_is_tried_again(address: str, tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 3)
    Breaks.broken = staticmethod(lambda number: number % 4 != 0)
    assert mirrored(images, tmp_path / "run", address)[2] == ""
    break_from(3)
    problem = mirrored(images, tmp_path / "run", address, replace(CONFIG, overwrite=True))[2]
    assert "cannot be written (ConnectionResetError: the line is dead, 4 attempts)" in problem
    assert f"{address}/timings/" in problem
    heal()
    assert mirrored(images, tmp_path / "run", address) == (0, 0, "")
    assert_whole(address, tmp_path / "copy", 3)


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_what_a_mirror_refuses(address: str, tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 3)
    mirrored(images, tmp_path / "run", address)
    other = {**PARTS, "nms_iou": 0.1}
    with Mirror(address, tmp_path / "new") as mirror:
        with pytest.raises(UserError, match=r"mirrors a run made in another way:\n  nms iou: 0.7 → 0.1\nUse --over"):
            mirror.prepare(other, images, overwrite=False)
        assert mirror.prepare(other, images, overwrite=True) == 0
    assert not (tmp_path / "new").exists()
    assert mirrored(images, tmp_path / "new", address, replace(CONFIG, limit=1, overwrite=True)) == (1, 0, "")
    assert_whole(address, tmp_path / "replaced", 1)
    # A shard that is damaged here does not get there.
    (name,) = shards(tmp_path / "replaced")
    (tmp_path / "new" / SHARDS_FOLDER / name).write_bytes(b"damaged")
    Breaks.top = f"{Breaks.top}2"
    problem = mirrored(images, tmp_path / "new", f"{address}2", replace(CONFIG, limit=1))[2]
    assert "is not what the manifest says; `groundlabel verify --repair` mends the run" in problem
    shutil.copy(tmp_path / "replaced" / SHARDS_FOLDER / name, tmp_path / "new" / SHARDS_FOLDER)
    Breaks.top = Breaks.top[:-1]
    # Two at once: the one that finds another's manifest stops, and both are put together later.
    with Mirror(address, tmp_path / "new") as mirror, open_writer(images, tmp_path / "new"):
        mirror.begin(overwrite=False)
        assert mirrored(images, tmp_path / "run", address)[2] == ""
        assert "another call has written to it since" in mirror.finish()
    assert mirrored(images, tmp_path / "new", address)[2] == ""
    assert_whole(address, tmp_path / "both", 3)
    # A manifest that somebody made leads out of no folder.
    system, top = fsspec.url_to_fs(address)
    entry = replace(Run.open(tmp_path / "run").entries[0], shard="../../x.parquet")
    MemoryFileSystem.pipe_file(system, f"{top}/{MANIFEST_NAME}", entry.to_line() + removal_line([]))
    with pytest.raises(UserError, match=r"names '\.\./\.\./x\.parquet', which is no shard"):
        mirrored(images, tmp_path / "third", address)
    MemoryFileSystem._rm(system, f"{top}/{RUN_FILE}")
    with pytest.raises(UserError, match=r"has the shards of a run, but its run\.json is gone or damaged"):
        mirrored(images, tmp_path / "third", address)
    MemoryFileSystem.pipe_file(system, f"{top}/photo.jpg", b"")
    with pytest.raises(UserError, match=r"not a run \(it has photo\.jpg\)"):
        Mirror(address, tmp_path / "third")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("run/", r"--mirror run/: must be an address .*\(s3://, gs://, abfs://, memory://, file://\)"),
        ("https://host/run", "must be an address at which a file is complete or absent"),
        ("s3://bucket", "name a folder of its own in it, such as s3://bucket/run"),
        ("s3://me:secret@bucket/run", "--mirror: an address with a password"),
    ],
)
def test_addresses_that_are_refused(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=message) as caught:
        RemoteFolder(address)
    assert "secret" not in str(caught.value)
    monkeypatch.setattr("pipeline.fetching.find_spec", lambda name: None)
    with pytest.raises(UserError, match="s3:// needs the package s3fs"):
        RemoteFolder("s3://bucket/run")


def test_a_run_does_not_mirror_itself(tmp_path: Path) -> None:
    for place in (tmp_path / "run", tmp_path / "run" / "reviewed"):
        with pytest.raises(UserError, match="is in the run folder itself"):
            Mirror(f"file://{place}", tmp_path / "run")


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_shards_are_sent_while_the_run_goes_on(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.store.mirror, "SEND_SECONDS", 0.01)
    images, output = save_images(tmp_path / "images", 2), tmp_path / "run"
    label(images, output)

    def wait(seen: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not seen():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with Mirror(address, output) as mirror, open_writer(images, output):
        break_from(2)
        mirror.begin(overwrite=False)
        wait(lambda: "mirror behind" in (output / LOG_FILE).read_text())
        heal()
        wait(lambda: f"{Breaks.top}/{MANIFEST_NAME}" in Store.store)
        assert_whole(address, tmp_path / "copy", 2)
        assert mirror.finish() == ""
