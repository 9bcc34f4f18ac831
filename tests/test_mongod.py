"""MongoDB for FiftyOne: which one is found, how it is started, shared and stopped; nothing here imports FiftyOne."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.review import database, keeper, mongod
from pipeline.review.database import open_database
from pipeline.review.mongod import MongodInfo, database_home, find_mongod, hide_password

ROOT = Path(__file__).parents[1]


def real_mongod_missing() -> str:
    """Return why no real mongod can run on this machine; empty where one can."""
    try:
        find_mongod()
    except UserError as error:
        return str(error)
    return ""


needs_mongod = pytest.mark.skipif(bool(real_mongod_missing()), reason=real_mongod_missing() or "mongod is here")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(mongod.URI_VARIABLE, raising=False)


@pytest.fixture
def put_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Make an executable shell script that is found first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return put


def state() -> dict[str, int]:
    return dict(json.loads((database_home() / "state.json").read_text()))


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a zombie that nobody has collected yet has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


USER = "import sys, time\nfrom pipeline.review.database import open_database\n"
USER += "with open_database() as uri:\n    print(uri, flush=True)\n    sys.stdin.read()\n"


@pytest.fixture
def start_user() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start another process that uses the database until its stdin closes; it has the database when this returns."""
    children = []

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", USER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        assert child.stdout
        child.uri = child.stdout.readline().strip()
        return child

    yield start
    for child in children:
        child.communicate()


def test_the_users_uri_comes_first(put_on_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path("mongod", "echo db version v7.0.1")
    monkeypatch.setenv(mongod.URI_VARIABLE, "mongodb://me:secret@somewhere:27017")
    found = find_mongod()
    assert (found.source, found.executable) == ("uri", None)
    assert "secret" not in found.describe()


def test_mongod_on_path_comes_before_the_wheel(put_on_path: Callable[[str, str], Path]) -> None:
    path = put_on_path("mongod", "echo db version v7.0.1")
    assert find_mongod() == MongodInfo("path", executable=path, version="7.0.1")


@needs_mongod
@pytest.mark.parametrize("script", ["echo db version v4.4.2", "echo broken >&2; exit 1", "exit 0"])
def test_a_mongod_that_will_not_do_is_passed_over(put_on_path: Callable[[str, str], Path], script: str) -> None:
    put_on_path("mongod", script)
    assert find_mongod().source == "wheel"


def test_without_any_mongod_the_message_says_what_was_tried_and_what_to_install(
    put_on_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path("mongod", "echo db version v4.4.2")
    monkeypatch.setattr(mongod.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"MongoDB 4\.4\.2; FiftyOne needs 6\.0") as raised:
        find_mongod()
    assert "pip install 'groundlabel[mongodb]'" in str(raised.value)


def test_missing_openssl_without_the_extra_is_one_clear_message(
    put_on_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path("mongod", "exit 127")
    put_on_path("ldd", 'echo "\tlibssl.so.1.1 => not found"')
    monkeypatch.setattr(mongod, "_bundled_openssl", list)
    monkeypatch.setattr(mongod.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"lacks libssl\.so\.1\.1 .*groundlabel\[mongodb\]"):
        find_mongod()


def test_openssl_of_the_extra_is_linked_under_its_plain_names(
    put_on_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources = [tmp_path / "libssl-3e69114b.so.1.1", tmp_path / "libcrypto-7d0e8add.so.1.1"]
    for source in sources:
        source.touch()
    monkeypatch.setattr(mongod, "_bundled_openssl", lambda: sources)
    put_on_path("ldd", '[ "$LD_LIBRARY_PATH" ] || echo "\tlibssl.so.1.1 => not found"')
    put_on_path("mongod", '[ "$LD_LIBRARY_PATH" ] && echo db version v6.0.27')
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    found = find_mongod()
    assert found.library_folder is not None
    assert (found.library_folder / "libssl.so.1.1").resolve() == sources[0]
    assert (found.library_folder / "libcrypto.so.1.1").resolve() == sources[1]
    assert "LD_LIBRARY_PATH" not in os.environ


def test_other_missing_libraries_are_named(
    put_on_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path("mongod", "exit 127")
    put_on_path("ldd", 'echo "\tlibcurl.so.4 => not found"')
    monkeypatch.setattr(mongod.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"lacks libcurl\.so\.4"):
        find_mongod()


def test_data_of_another_release_is_not_opened(put_on_path: Callable[[str, str], Path]) -> None:
    path = put_on_path("mongod", "echo db version v8.0.4")
    database_home().mkdir(parents=True)
    (database_home() / "release").write_text("8.0")
    assert find_mongod().executable == path
    (database_home() / "release").write_text("5.0")
    with pytest.raises(UserError, match=r"written by MongoDB 5\.0"):
        find_mongod()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://host:1/x", "mongodb://host:1/x"),
        ("mongodb://me:pass@host", "mongodb://me:***@host"),
        ("mongodb+srv://me:p%40s@host", "mongodb+srv://me:***@host"),
    ],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert hide_password(uri) == shown


def test_a_uri_that_nobody_answers_is_an_error_and_no_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "REACH_SECONDS", 0.3)
    monkeypatch.setenv(mongod.URI_VARIABLE, f"mongodb://me:secret@127.0.0.1:{keeper.free_port()}")
    with pytest.raises(UserError, match="does not answer") as raised, open_database():
        pytest.fail("nobody listens there")
    assert "secret" not in str(raised.value)


@needs_mongod
def test_it_listens_on_loopback_only_and_stops_with_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_database() as uri:
        running = state()
        words = Path(f"/proc/{running['mongod']}/cmdline").read_text().split("\0")
        assert words[words.index("--bind_ip") + 1] == "127.0.0.1"
        assert uri == f"mongodb://127.0.0.1:{running['port']}"
        assert stat.S_IMODE(database_home().stat().st_mode) == 0o700
        monkeypatch.setenv(mongod.URI_VARIABLE, uri)
        with open_database() as given:
            assert given == uri
        assert is_alive(running["mongod"])
    assert not is_alive(running["mongod"])
    assert not is_alive(running["keeper"])
    assert not keeper.listens(running["port"])
    assert '"exitCode":0' in (database_home() / "mongod.log").read_text().splitlines()[-1]


@needs_mongod
def test_users_at_the_same_time_share_it_and_the_last_one_stops_it(
    start_user: Callable[[], subprocess.Popen[str]],
) -> None:
    first, second = start_user(), start_user()
    running = state()
    assert first.uri == second.uri == f"mongodb://127.0.0.1:{running['port']}"
    first.communicate()
    assert is_alive(running["mongod"])
    with open_database() as uri:
        assert uri == second.uri
        second.communicate()
        assert is_alive(running["mongod"])
    assert not is_alive(running["mongod"])


@needs_mongod
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_orphan_is_left_when_the_user_is_killed(
    start_user: Callable[[], subprocess.Popen[str]], number: signal.Signals
) -> None:
    user = start_user()
    running = state()
    user.send_signal(number)
    user.communicate()
    assert wait_until(lambda: not is_alive(running["mongod"]) and not is_alive(running["keeper"]))


@needs_mongod
@pytest.mark.parametrize("victim", ["keeper", "mongod"])
def test_the_next_start_copes_with_a_killed_server(
    start_user: Callable[[], subprocess.Popen[str]], victim: str
) -> None:
    user = start_user()
    running = state()
    os.kill(running[victim], signal.SIGKILL)
    with open_database() as uri:
        assert uri != user.uri
        assert keeper.listens(state()["port"])
    assert not is_alive(running["mongod"])


@needs_mongod
def test_a_server_that_does_not_start_says_why_at_once() -> None:
    (database_home() / "data").mkdir(parents=True)
    (database_home() / "data" / "WiredTiger").write_text("damaged")
    (database_home() / "data" / "WiredTiger.turtle").write_text("damaged")
    (database_home() / "data" / "storage.bson").write_text("damaged")
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"did not start: .*mongod\.log"), open_database():
        pytest.fail("it cannot have started")
    assert time.monotonic() - begin < 20
    assert not (database_home() / "state.json").exists()


def test_a_cache_that_cannot_be_written_is_an_error(
    put_on_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_on_path("mongod", "echo db version v7.0.1")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"), open_database():
        pytest.fail("it cannot have started")


def test_a_home_in_use_on_another_machine_is_an_error(
    put_on_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path("mongod", "echo db version v7.0.1")
    database_home().mkdir(parents=True)
    (database_home() / "state.json").write_text(json.dumps({"port": 1, "host": "elsewhere", "mongod": 1, "keeper": 1}))
    held = os.open(database_home() / "in_use.lock", os.O_RDWR | os.O_CREAT)
    try:
        database.fcntl.flock(held, database.fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use on elsewhere"), open_database():
            pytest.fail("it cannot have started")
    finally:
        os.close(held)


def test_finding_one_imports_no_fiftyone() -> None:
    code = "import sys, pipeline.review.mongod as m\n"
    code += "try: m.find_mongod()\nexcept ValueError: pass\n"
    code += "print([name for name in ('fiftyone', 'pymongo', 'torch', 'ray') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_free_port_is_free() -> None:
    port = keeper.free_port()
    assert not keeper.listens(port)
    with socket.create_server(("127.0.0.1", port)):
        assert keeper.listens(port)
