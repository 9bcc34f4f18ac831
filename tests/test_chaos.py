"""Runs that are killed and go on, with the bundled models, real processes and SIGKILL."""

import re

import pytest

from jobs.cli import main

KILLS, IMAGES = 5, 24


@pytest.mark.timeout(900)
def test_killed_runs_equal_a_quiet_one(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["bench", "chaos", "--kills", str(KILLS), "--images", str(IMAGES), "--size", "128", "--seed", "3"])
    shown = capsys.readouterr()
    assert status == 0, shown.out + shown.err
    assert f"{KILLS} of {KILLS} identical to the quiet run, 0 lost, 0 double, recomputed" in shown.out
    kills = re.findall(r"kill \d+, (\w+): (\d+) of \d+ rows there, identical", shown.out)
    assert len(kills) == KILLS
    assert {"driver", "worker"} <= {victim for victim, _ in kills}
    assert any(0 < int(rows) < IMAGES for _, rows in kills)
