"""`annotate` and `groundlabel annotate`: the whole job, with stub models and a real local Ray."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

import pipeline.run
from jobs import annotate as command
from jobs.cli import main
from models.ontology import Ontology
from pipeline import AnnotateConfig, AnnotateResult, Run, annotate
from pipeline.build import build_annotator
from pipeline.engine.ray_start import start_ray
from pipeline.errors import UserError
from pipeline.images import read_image
from pipeline.paths import path_to_image_id
from pipeline.retry import retry
from pipeline.run import plan_annotate
from pipeline.store.index import ids_to_numbers
from pipeline.store.output import RETRY_FILE
from pipeline.store.remote import RemoteError, RemoteFolder
from pipeline.store.run import SHARDS_FOLDER
from pipeline.store.status import INTERRUPTED, read_status
from pipeline.store.verify import verify_run
from pipeline.store.writer import RunWriter
from tests.stub_models import ONTOLOGY, SLOW, build_for, save_image

CLASSES = "red thing, green thing"


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    start_ray(1)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def stub_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.run, "build_annotator", build_for)
    monkeypatch.setattr(pipeline.run, "model_fingerprint", lambda name: f"{name:_<64}")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for row in range(5):
        save_image(tmp_path / f"photos/{row}.png", green=row > 2)
    return tmp_path / "photos"


def run_command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


@pytest.mark.usefixtures("local_ray")
def test_annotate_continues_and_adds(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    first = annotate(photos, ONTOLOGY, output, limit=2, progress=False)
    assert (first.rows, first.computed, first.failed, first.interrupted) == (2, 2, (), False)
    second = annotate(photos, CLASSES, output, progress=False)
    assert (second.rows, second.computed, second.instances) == (5, 3, 7)
    shards = {path: path.stat().st_mtime_ns for path in (output / SHARDS_FOLDER).iterdir()}
    assert run_command(photos, "--classes", CLASSES, "--output", output) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (output / SHARDS_FOLDER).iterdir()} == shards
    assert isinstance(second, AnnotateResult)
    assert [record.path for record in second.run.records()] == [f"{row}.png" for row in range(5)]
    with pytest.raises(UserError, match="classes: red thing, green thing → red thing"):
        annotate(photos, "red thing", output, progress=False)
    replaced = annotate(photos, "red thing, other", output, overwrite=True, progress=False)
    assert (replaced.rows, replaced.computed) == (5, 5)
    assert json.loads((output / "summary.json").read_text())["per_class"] == {"red thing": 5, "other": 2}


@pytest.mark.usefixtures("local_ray")
def test_going_on_with_the_old_settings(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(photos, CLASSES, tmp_path / "run", limit=2, box_threshold=0.3, top_k=5, progress=False)
    with pytest.raises(UserError, match="--continue-with-old to go on"):
        annotate(photos, "else", tmp_path / "run", progress=False)
    result = annotate(photos, "else", tmp_path / "run", nms_iou=0.1, continue_with_old=True, progress=False)
    assert (result.computed, result.rows, result.instances) == (3, 5, 7)
    assert result.run.settings["parts"]["nms_iou"] == 0.7
    assert result.run.settings["parts"]["top_k"] == 5
    # On another machine, which has nothing but the mirror; then the way there is cut.
    words = (photos, "--classes", "else", "--mirror", f"file://{tmp_path}/mirror", "--output")
    assert run_command(*words, tmp_path / "run", "--continue-with-old") == 0
    moved = annotate(photos, "else", tmp_path / "new", mirror=words[4], continue_with_old=True, progress=False)
    assert (moved.computed, moved.rows, moved.fetched, moved.mirror_problem) == (0, 5, 2, "")
    write = RemoteFolder.write

    def cut(folder: RemoteFolder, name: str, content: bytes) -> None:
        if name.startswith(SHARDS_FOLDER):
            raise RemoteError(f"{name}: cannot be written")
        write(folder, name, content)

    monkeypatch.setattr(RemoteFolder, "write", cut)
    assert run_command(*words, tmp_path / "new", "--overwrite", "--limit", "1") == 4
    assert "The mirror is behind: shards/" in (told := capsys.readouterr().err)
    assert "run the same command again to bring the mirror into line" in told
    with pytest.raises(UserError, match="exclude each other"):
        annotate(photos, "else", tmp_path / "run", overwrite=True, continue_with_old=True)


@pytest.mark.usefixtures("local_ray")
def test_retry_computes_failed_rows_only(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1.png", "3.png"):
        (photos / name).write_text("broken")
    output = tmp_path / "run"
    assert annotate(photos, CLASSES, output, progress=False).computed == 5
    save_image(photos / "1.png")
    first = retry(output, progress=False)
    assert (first.computed, first.rows, [row.path for row in first.failed]) == (2, 5, ["3.png"])
    assert main(["retry", str(output)]) == 3
    save_image(photos / "3.png")
    # As a call that was cut off after it had taken the failed rows out.
    (output / RETRY_FILE).write_text('["3.png"]')
    with RunWriter.reopen(output) as writer:
        writer.drop_rows(ids_to_numbers([path_to_image_id("3.png")]))
    last = retry(output, progress=False)
    assert (last.computed, last.rows, last.failed) == (1, 5, ())
    assert not (output / RETRY_FILE).exists()
    capsys.readouterr()
    assert main(["retry", str(output)]) == 0
    assert "Nothing to do" in capsys.readouterr().out
    found = verify_run(output)
    assert (found.images, found.problems, found.notes) == (5, [], [])


def fill(ballast: Path) -> None:
    """Write until the disk is full."""
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(4096)):
            continue


@pytest.mark.usefixtures("local_ray")
def test_a_full_disk_loses_nothing(photos: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        annotate(photos, CLASSES, disk / "run", limit=2, progress=False)
        ballast = disk / "ballast"
        fill(ballast)
        with pytest.raises(UserError, match="no space left on the device; everything written so far is kept"):
            annotate(photos, CLASSES, disk / "run", progress=False)
        assert verify_run(disk / "run").problems == []
        assert Run.open(disk / "run").counts().total >= 2
        ballast.unlink()
        assert annotate(photos, CLASSES, disk / "run", progress=False).rows == 5
        found = verify_run(disk / "run")
        assert (found.images, found.problems, found.notes) == (5, [], [])
    finally:
        # Lazily: a worker that is on its way out may still hold a file.
        subprocess.run(["umount", "--lazy", disk], check=True)


def make_broken_folder(folder: Path) -> dict[str, str | None]:
    """Write readable and unreadable files; returns stored path -> part of the reason, or None when it can be read."""
    save_image(folder / "good.png", green=True)
    noise = np.random.default_rng(0).integers(0, 256, (90, 120), np.uint8)
    Image.fromarray(noise).convert("RGB").save(folder / "whole.jpg", quality=90)
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:2000])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no picture at all\n" * 30)
    Image.frombytes("I;16", (4, 1), bytes([0, 0, 0, 64, 0, 128, 255, 255])).save(folder / "deep.png")
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(folder / "cmyk.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10), (250, 0, 0)).save(folder / "turned.jpg", exif=exif)
    Image.new("1", (20_000, 10_000)).save(folder / "bomb.png")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "loop").symlink_to(".")
    save_image(folder / "emoji 🦊.png")
    save_image(folder / "plain.png")
    os.rename(folder / "plain.png", os.fsencode(folder) + b"/latin\xe9.png")
    save_image(folder / "a/same.png")
    save_image(folder / "b/same.png", green=True)
    return {
        "good.png": None,
        "whole.jpg": None,
        "truncated.jpg": "truncated",
        "empty.jpg": "0 bytes",
        "text.jpg": "not an image in a format that is read",
        "deep.png": None,
        "cmyk.jpg": None,
        "turned.jpg": None,
        "bomb.png": "too many pixels",
        "pipe.jpg": "FIFO",
        "circle.jpg": "symbolic links",
        "emoji 🦊.png": None,
        "latin%E9.png": None,
        "a/same.png": None,
        "b/same.png": None,
    }


@pytest.mark.usefixtures("local_ray")
def test_broken_files_are_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, output = tmp_path / "photos", tmp_path / "photos/run"
    expected = make_broken_folder(photos)
    for _ in range(2):
        assert run_command(photos, "--classes", CLASSES, "--output", output) == 3
        shown = capsys.readouterr().err
        assert "6 of 15 images failed; why is in" in shown
        assert str(output / "failed.csv") in shown
    run = Run.open(output)
    records = {record.path: record for record in run.records()}
    assert records.keys() == expected.keys()
    reasons = {record.path: record.reason for record in run.failed()}
    assert reasons.keys() == {path for path, reason in expected.items() if reason}
    for path, reason in reasons.items():
        assert str(expected[path]) in reason
        assert "0x" not in reason
    sizes = {record.path: record.image_hw for record in run.annotated()}
    assert sizes["turned.jpg"] == (20, 10)
    assert read_image(run.image_path(records["deep.png"]))[0, :, 0].tolist() == [0, 64, 128, 255]
    assert records["cmyk.jpg"].class_names == ("red thing",)  # type: ignore[union-attr]
    assert records["latin%E9.png"].class_names == ("red thing",)  # type: ignore[union-attr]
    assert all(run.image_path(record).exists() for record in run.annotated())
    listed = json.loads((output / "summary.json").read_text())["failures"]
    assert {row["path"]: row["reason"] for row in listed} == reasons
    assert len((output / "failed.csv").read_text().splitlines()) == 7


@pytest.mark.usefixtures("local_ray")
def test_moving_the_images_computes_nothing(photos: Path, tmp_path: Path) -> None:
    annotate(photos, CLASSES, tmp_path / "run", progress=False)
    photos.rename(tmp_path / "elsewhere")
    moved = annotate(tmp_path / "elsewhere", CLASSES, tmp_path / "run", progress=False)
    assert (moved.computed, moved.rows) == (0, 5)
    assert moved.run.images_root == tmp_path / "elsewhere"


def test_dry_run_writes_nothing(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_annotate(photos, CLASSES, tmp_path / "run", workers=2)
    assert (plan.images, plan.done, plan.todo, plan.workers) == (5, 0, 5, 2)
    assert plan.seconds_per_image is not None
    assert plan.seconds_per_image > 0
    assert plan.peak_bytes > 10_000_000
    assert run_command(photos, "--classes", CLASSES, "--output", tmp_path / "run", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert f"5 images in {photos}: 0 are in" in shown
    assert "GiB of memory a worker" in shown
    assert not (tmp_path / "run").exists()


def test_print_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command("photos", "--print-config", "--box-threshold", "0.5", "--no-overwrite") == 0
    (tmp_path / "c.toml").write_text(capsys.readouterr().out)
    assert AnnotateConfig.from_toml(tmp_path / "c.toml") == AnnotateConfig(images="photos", box_threshold=0.5)
    assert run_command("--config", tmp_path / "c.toml", "--nms-iou", "0.5", "--print-config") == 0
    shown = capsys.readouterr().out
    assert "nms_iou = 0.5" in shown
    assert "box_threshold = 0.5" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "images is missing: give photos/"),
        (("photos",), "classes is missing"),
        (("photos", "--classes", "cat"), "output is missing"),
        (("nothing", "--classes", "cat", "--output", "run"), "no such file or folder"),
        (("photos", "--classes", "cat,,dog", "--output", "run"), "class name is empty"),
        (("photos", "--classes", "none.yaml", "--output", "run"), "none.yaml"),
        (("photos", "--classes", "cat", "--output", "photos/0.png"), "is a file; --output needs a folder"),
        (("photos", "--classes", "cat", "--output", "photos"), "is not empty and not a run"),
        (("photos", "--classes", "cat", "--output", "r", "--detector", "tinny"), "did you mean tiny"),
        (("photos", "--classes", "cat", "--output", "r", "--segmenter", "tiny"), "not a segmenter"),
        (("photos", "--classes", "cat", "--output", "r", "--config", "no.toml"), "no.toml"),
    ],
)
def test_wrong_use_is_one_message(
    words: tuple[str, ...], message: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    with pytest.raises(UserError, match=message):
        run_command(*words)
    assert not (photos.parent / "run").exists()


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images found"):
        annotate(tmp_path, CLASSES, tmp_path / "run")


def test_models_are_loaded_with_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("pipeline.build.load_detector", lambda *args, **options: calls.append((args, options)))
    monkeypatch.setattr("pipeline.build.load_segmenter", lambda *args, **options: calls.append((args, options)))
    options = AnnotateConfig(box_threshold=0.4, size=320, device="cpu", precision="bf16", compile=True)
    build_annotator(options, ONTOLOGY).close()
    assert calls == [
        (
            ("tiny", ONTOLOGY),
            {"box_threshold": 0.4, "text_threshold": 0.25, "size": 320}
            | {"prompts_per_pass": None, "prefilter": None, "device": "cpu", "precision": "bf16", "compile": True},
        ),
        (("tiny-sam",), {"device": "cpu", "multimask": False, "precision": "bf16"}),
    ]


_SCRIPT = """
import sys
import pipeline.run
from tests.stub_models import build_for
from jobs.cli import main
pipeline.run.build_annotator = build_for
pipeline.run.model_fingerprint = lambda name: name
sys.exit(main(["annotate", *sys.argv[1:]]))
"""


@pytest.mark.timeout(600)
def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    """The signal goes to the whole process group, as a terminal sends it."""
    for row in range(40):
        save_image(tmp_path / f"photos/{row:02}.png", mark=204)
    words = [tmp_path / "photos", "--classes", CLASSES, "--output", tmp_path / "run", "--shard-size", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, *map(str, words)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        text=True,
    )
    with process:
        shards = tmp_path / "run" / SHARDS_FOLDER
        deadline = time.monotonic() + 240
        while not (shards.is_dir() and any(shards.glob("*.parquet"))) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert read_status(tmp_path / "run").state == INTERRUPTED  # type: ignore[union-attr]
    counts = Run.open(tmp_path / "run").counts()
    assert 0 < counts.ok < 40
    assert f"Stopped: {counts.ok} images labelled, {40 - counts.ok} left." in err
    assert "Traceback" not in err
    assert out == ""
    assert Ontology.parse(CLASSES) == Run.open(tmp_path / "run").ontology


@pytest.mark.timeout(600)
def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    for row in range(40):
        save_image(tmp_path / f"photos/{row:02}.png", mark=204)
    words = [tmp_path / "photos", "--classes", CLASSES, "--output", tmp_path / "run", "--shard-size", "8"]
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, *map(str, words)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        text=True,
    )
    with process:
        deadline = time.monotonic() + 240
        while not (status := read_status(tmp_path / "run")) or not status.given:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for _ in range(2):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.3)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    found = verify_run(tmp_path / "run")
    assert found.problems == []
    assert found.images < 40
    with RunWriter.reopen(tmp_path / "run"):
        assert verify_run(tmp_path / "run").notes == []


@pytest.mark.usefixtures("local_ray")
def test_metrics_and_profile_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in range(6):
        save_image(tmp_path / f"photos/{row}.png", SLOW)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    seen: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                seen.append(answer.read().decode())

    watching = threading.Thread(target=watch)
    watching.start()
    words = ["annotate", str(tmp_path / "photos"), "--classes", CLASSES, "--output", str(tmp_path / "run")]
    assert main([*words, "--shard-size", "1", "--metrics-port", str(port), "--profile"]) == 0
    ended.set()
    watching.join()
    done = [
        int(line.split()[1])
        for text in seen
        for line in text.splitlines()
        if line.startswith("groundlabel_images_done")
    ]
    assert done == sorted(done)
    assert any(0 < count < 6 for count in done)
    assert any("groundlabel_workers_ready 1\n" in text for text in seen)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))
    shown = capsys.readouterr().out
    assert "s of the workers for 6 images" in shown
    assert "Beside that, in other threads: decode" in shown
    profile = json.loads((tmp_path / "run/summary.json").read_text())["last_call"]["profile"]
    assert profile["shares"]["detect"] > 0
    assert profile["bound"] in shown
    assert main(words) == 0
