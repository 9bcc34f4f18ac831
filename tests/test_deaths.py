"""How a worker's death is told: by the signal, or that it hung."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.engine.deaths import Death, note_path, read_death

_ROOT = Path(__file__).parents[1]
_SCRIPT = """
import ctypes, os, sys, time
from pathlib import Path
from pipeline.engine.deaths import Watchdog
dog = Watchdog("w")
run, act = Path(sys.argv[1]), sys.argv[2]
with dog.watching(run, 0.5):
    if act == "segfault":
        ctypes.string_at(0)
    if act == "abort":
        os.abort()
    if act == "kill":
        os.kill(os.getpid(), 9)
    if act == "hang":
        ctypes.CDLL(None).sleep(60)
    if act == "slow":
        for _ in range(4):
            time.sleep(0.3)
            dog.progress(1)
        dog.progress(4)
        time.sleep(1.2)
time.sleep(0.8)
print("alive")
"""


@pytest.mark.parametrize(
    ("act", "signal", "status"),
    [("segfault", "SIGSEGV", -11), ("abort", "SIGABRT", -6), ("kill", "SIGKILL", -9), ("hang", "hang", 1)],
)
def test_a_death_leaves_a_note(tmp_path: Path, act: str, signal: str, status: int) -> None:
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", _SCRIPT, str(tmp_path), act], cwd=_ROOT, timeout=100)
    assert done.returncode == status
    assert time.monotonic() - start < 50
    death = read_death(tmp_path, "w")
    assert (death.signal, death.hung) == (signal, act == "hang")
    assert ("watching" in death.note or "<string>" in death.note) == (act != "kill")
    assert not list(tmp_path.iterdir())


def test_slow_is_not_hung(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path), "slow"], cwd=_ROOT, timeout=100, capture_output=True, text=True
    )
    assert done.stdout == "alive\n"
    assert note_path(tmp_path, "w").read_text() == ""


def test_reasons_name_the_signal() -> None:
    assert Death("SIGSEGV", "").describe(None, 3) == (
        "its worker process was killed by SIGSEGV 3 times while it held this image alone"
    )
    assert "want of memory" in Death("SIGKILL", "").describe(600.0, 3)
    assert Death("hang", "").describe(2.5, 3) == "no result within 2.5 s (--image-timeout)"
