"""Images that are elsewhere: which addresses are taken, how they are fetched, and what becomes of them in a run."""

import http.server
import io
import json
import shutil
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

import pipeline.fetching
from pipeline.addresses import (
    DEFAULT_SCHEMES,
    address_to_root,
    check_address,
    is_address,
    parse_schemes,
    root_to_address,
)
from pipeline.annotator import Annotator
from pipeline.build import build_annotator
from pipeline.config import AnnotateConfig
from pipeline.engine.worker import Task, Worker
from pipeline.errors import UserError
from pipeline.fetching import Fetcher, FetchSettings, is_private
from pipeline.images import UnreadableImageError
from pipeline.listing import Listing
from pipeline.records import FailedImage
from pipeline.sources import ImageRef, find_images, open_images
from pipeline.store.run import RUN_FILE, Run
from tests.store_runs import label, open_writer, rows, save_images
from tests.stub_models import ONTOLOGY, StubDetector, StubSegmenter, build_stub, save_image

OPEN = FetchSettings(frozenset(("http", "https", "memory")), allow_private=True, wait_seconds=0.01)


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives files of a folder, fails as its path says, and counts what it is asked."""

    folder = Path()
    elsewhere = ""
    asked: list[str]

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.asked.append(name)
        if name.startswith("redirect"):
            self.send_response(302)
            self.send_header("Location", self.elsewhere)
            self.end_headers()
        elif name.startswith("busy") and self.asked.count(name) < 3:
            self.send_error(503)
        elif name.startswith("forbidden"):
            self.send_error(403)
        elif name.startswith("slow"):
            time.sleep(1.5)
        elif name.startswith("cut"):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"few")
        elif (path := self.folder / name.removeprefix("busy-")).is_file():
            self.send_response(200)
            self.end_headers()
            self.wfile.write(path.read_bytes())
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Keep quiet of connections that were given up."""


def serve(folder: Path, host: str = "127.0.0.1") -> tuple[Server, type[Handler], str]:
    handler = type("OwnHandler", (Handler,), {"folder": folder, "asked": []})
    server = Server((host, 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server, handler, f"http://{host}:{server.server_port}"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[type[Handler], str]]:
    save_image(tmp_path / "web/a.png")
    server, handler, address = serve(tmp_path / "web")
    yield handler, address
    server.shutdown()
    server.server_close()


def reason(settings: FetchSettings, address: str) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        Fetcher(settings).fetch(address)
    return str(caught.value)


def test_a_file_comes_as_it_is(web: tuple[type[Handler], str], tmp_path: Path) -> None:
    handler, address = web
    fetcher = Fetcher(OPEN)
    with fetcher.fetch(f"{address}/a.png") as file:
        assert Path(f"/proc/self/fd/{file.fileno()}").read_bytes() == (tmp_path / "web/a.png").read_bytes()
    with fetcher.fetch(f"{address}/busy-a.png") as file:
        assert file.seek(0, io.SEEK_END) > 0
    assert handler.asked == ["a.png", *["busy-a.png"] * 3]


def test_what_cannot_be_had_has_a_reason(web: tuple[type[Handler], str], monkeypatch: pytest.MonkeyPatch) -> None:
    handler, address = web
    assert reason(OPEN, f"{address}/none.png") == "cannot be fetched: not found"
    assert "403" in reason(OPEN, f"{address}/forbidden.png")
    assert handler.asked == ["none.png", "forbidden.png"]
    assert reason(replace(OPEN, seconds=0.2), f"{address}/slow") == "cannot be fetched: no answer in time, 3 attempts"
    assert "ClientPayloadError" in reason(OPEN, f"{address}/cut")
    assert handler.asked.count("cut") == 3
    monkeypatch.setattr(pipeline.fetching, "MOST_BYTES", 10)
    assert "larger than" in reason(OPEN, f"{address}/a.png")


def test_private_hosts_are_refused(web: tuple[type[Handler], str]) -> None:
    handler, address = web
    closed = replace(OPEN, allow_private=False)
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"):
        text = reason(closed, address.replace("127.0.0.1", host) + "/a.png")
        assert "in a private network or on this machine (--allow-private-addresses)" in text, host
    assert handler.asked == []


@pytest.mark.parametrize(
    ("host", "private"),
    [
        *(
            ("127.8.0.1", True),
            ("10.1.2.3", True),
            ("172.16.0.1", True),
            ("192.168.1.1", True),
            ("169.254.169.254", True),
        ),
        *(
            ("::1", True),
            ("fe80::1%eth0", True),
            ("fd00::1", True),
            ("::ffff:10.0.0.1", True),
            ("64:ff9b::a00:1", True),
        ),
        *(("2002:a00:1::", True), ("224.0.0.1", True), ("0.0.0.0", True), ("100.64.0.1", True)),
        *(("8.8.8.8", False), ("2001:4860:4860::8888", False), ("64:ff9b::808:808", False)),
    ],
)
def test_private_addresses(host: str, private: bool) -> None:
    assert is_private(host) is private


def test_redirects_are_checked(web: tuple[type[Handler], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, address = web
    other, other_handler, other_address = serve(tmp_path / "web", "127.0.0.2")
    monkeypatch.setattr(pipeline.fetching, "is_private", lambda host: host != "127.0.0.1")
    closed = replace(OPEN, allow_private=False)
    try:
        handler.elsewhere = f"{other_address}/a.png"
        assert "in a private network" in reason(closed, f"{address}/redirect")
        assert other_handler.asked == []
        Fetcher(OPEN).fetch(f"{address}/redirect").close()
        assert other_handler.asked == ["a.png"]
        handler.elsewhere = "https://example.org/a.png"
        only_http = replace(OPEN, schemes=frozenset(("http",)))
        assert "it redirects to https:// (--remote-schemes)" in reason(only_http, f"{address}/redirect")
        handler.elsewhere = "file:///etc/hostname"
        assert "it redirects to file://" in reason(OPEN, f"{address}/redirect")
    finally:
        other.shutdown()
        other.server_close()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/a.png", r"ftp:// is not among the kinds of addresses that are fetched \(gs, https, s3; --remote"),
        ("http://host/a.png", "http:// is not among"),
        ("file:///etc/passwd", "file:// is not among"),
        ("https:///a.png", "names no host"),
        ("https://user:secret@host/a.png", "user or password would be kept"),
        ("https://host/a\r\nX: b.png", "cannot be printed"),
    ],
)
def test_addresses_that_are_refused(address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_address(address, DEFAULT_SCHEMES)
    assert reason(FetchSettings(), address)


def test_addresses_and_roots() -> None:
    assert not is_address("a/b.png")
    assert not is_address("https:/one slash.png")
    for address in ("s3://bucket/photos", "https://host:8000/x"):
        assert root_to_address(str(address_to_root(address + "/"))) == address
    assert root_to_address("/data/s3:/odd") == ""
    assert ImageRef.from_path("a/x.png").locate("s3:/bucket/photos") == "s3://bucket/photos/a/x.png"
    assert ImageRef.from_path("gs://b/x.png").locate("/data") == "gs://b/x.png"
    assert parse_schemes(" S3, https,") == frozenset(("s3", "https"))
    with pytest.raises(UserError, match="is no scheme"):
        parse_schemes("https://")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.fetching, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"s3:// needs the package s3fs: pip install s3fs"):
        find_images("s3://bucket/photos")


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """Put images into fsspec's memory, which is the same in all threads of this process."""
    system = fsspec.filesystem("memory")
    save_images(tmp_path / "photos/sub", 3, bad=[1])
    save_image(tmp_path / "photos/z.png")
    for path in sorted((tmp_path / "photos").rglob("*.png")):
        system.pipe_file(f"/bucket/{path.relative_to(tmp_path / 'photos')}", path.read_bytes())
    system.pipe_file("/bucket/notes.txt", b"text")
    system.pipe_file("/bucket/.hidden/x.png", b"text")
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def remote_annotator() -> Annotator:
    return Annotator(StubDetector(), StubSegmenter(), ONTOLOGY, batch_size=4, fetching=OPEN)


def label_remote(images: object, output: Path, config: AnnotateConfig) -> tuple[Run, int]:
    source = open_images(images, config.root, parse_schemes(config.remote_schemes))  # type: ignore[arg-type]
    with (
        open_writer(source.root, output, config) as writer,
        Listing(source, writer.index, output, config, spool_folder=output) as listing,
    ):
        worker = Worker(remote_annotator, 1)
        worker.prepare()
        task = Task(str(source.root), output, writer.fingerprint)
        for batch in listing.batches(4, writer):
            if batch is not None and (entry := worker.annotate(batch.refs, task)) is not None:
                writer.add(entry)
        writer.finish(1.0, writer.added)
        return Run.open(output), writer.added


def test_a_remote_folder_is_labelled_as_its_copy_is(bucket: str, tmp_path: Path) -> None:
    config = AnnotateConfig(remote_schemes="memory")
    run, added = label_remote(bucket, tmp_path / "run", config)
    assert added == 4
    assert rows(run) == rows(label(tmp_path / "photos", tmp_path / "local"))
    assert [record.path for record in run.failed()] == ["sub/001.png"]
    assert json.loads((tmp_path / "run" / RUN_FILE).read_text())["images_root"] == bucket
    assert label_remote(bucket, tmp_path / "run", config)[1] == 0
    # A copy on this machine takes the run over: review and export then find the images, and nothing is computed.
    shutil.copytree(tmp_path / "photos", tmp_path / "copy")
    run, added = label_remote(tmp_path / "copy", tmp_path / "run", config)
    assert added == 0
    assert run.images_root == tmp_path / "copy"
    assert all(run.image_path(record).is_file() for record in run.records())


def test_lists_may_hold_addresses(bucket: str, web: tuple[type[Handler], str], tmp_path: Path) -> None:
    save_image(tmp_path / "own.png")
    entries = ["own.png", f"{bucket}/z.png", f"{web[1]}/a.png", f"{web[1]}/none.png"]
    (tmp_path / "list.txt").write_text("\n".join(entries))
    run, _ = label_remote(tmp_path / "list.txt", tmp_path / "run", AnnotateConfig(remote_schemes="http,memory"))
    found = {record.path: getattr(record, "reason", "ok") for record in run.records()}
    assert found == {
        "own.png": "ok",
        f"{bucket}/z.png": "ok",
        f"{web[1]}/a.png": "ok",
        f"{web[1]}/none.png": "cannot be fetched: not found",
    }
    assert sum(isinstance(record, FailedImage) for record in run.records()) == 1
    below = find_images_of([f"{bucket}/z.png", f"{bucket}/../z.png", "sub/002.png"], bucket)
    assert below == ["memory://bucket/../z.png", "sub/002.png", "z.png"]


def find_images_of(entries: list[str], root: str) -> list[str]:
    source = open_images(entries, address_to_root(root), frozenset(("memory",)))
    return sorted(source.paths)


def test_what_cannot_be_listed(bucket: str) -> None:
    for address, message in (
        ("https://host/photos/", "cannot be listed; give a .txt list"),
        ("memory://nothing/here", "cannot be listed"),
        (f"{bucket}/list.txt", "a list is read from this machine only"),
        (f"{bucket}/*.png", "wildcards are for paths on this machine"),
        ("ftp://host/photos", "ftp:// is not among"),
    ):
        with pytest.raises(UserError, match=message):
            list(open_images(address, None, frozenset(("https", "memory"))).paths)


def test_the_options_reach_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {}
    monkeypatch.setattr("pipeline.build.load_detector", lambda *_, **__: StubDetector())
    monkeypatch.setattr("pipeline.build.Annotator", lambda *_, **options: made.update(options) or build_stub())
    config = AnnotateConfig(mask="none", remote_schemes="s3", allow_private_addresses=True)
    build_annotator(config, ONTOLOGY).close()
    assert made["fetching"] == FetchSettings(frozenset(("s3",)), allow_private=True)
