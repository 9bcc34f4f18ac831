"""`--group-by video`: frames of one video share a side, by their names or by what the labels say."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.cli import main
from pipeline.paths import path_to_image_id
from pipeline.splits import SplitImage, SplitSettings, assign_sides
from pipeline.splits.groups import GroupBy, clip_of

Capture = pytest.CaptureFixture[str]

BY_VIDEO = SplitSettings((50, 50), 0, "video", None)


@pytest.mark.parametrize(
    ("path", "clip"),
    [
        ("clip_000123.jpg", (".", "clip")),
        ("clip-0001.png", (".", "clip")),
        ("clip.0001.jpg", (".", "clip")),
        ("my clip - 001.jpg", (".", "my clip")),
        ("clip_frame_0012.jpg", (".", "clip")),
        ("clip_Frame12.JPG", (".", "clip")),
        ("cam2_17.jpg", (".", "cam2")),
        ("a/b/clip_1.jpg", ("a/b", "clip")),
        ("clip/frame_12.jpg", ("clip", "")),
        ("clip/frame12.jpg", ("clip", "")),
        ("clip/000012.jpg", ("clip", "")),
        ("dash_mp4-12_jpg.rf.0a1b2c3d.jpg", (".", "dash_mp4")),
        ("000012.jpg", None),
        ("frame_12.jpg", None),
        ("portrait.jpg", None),
        ("clip12.jpg", None),
        ("clip_12_mask.jpg", None),
    ],
)
def test_names_of_frames(path: str, clip: tuple[str, str] | None) -> None:
    assert clip_of(path) == (None if clip is None else "\0".join(clip))


@settings(max_examples=60, deadline=None)
@given(
    st.text("abßimgf12 _-.", max_size=8).map(lambda text: f"a{text}b"),
    st.sampled_from(["_", "-", ".", "_frame_", "-f", " frame"]),
    st.lists(st.integers(0, 10**7), min_size=2, max_size=5),
    st.integers(1, 8),
)
def test_all_frames_of_a_clip_are_of_it(clip: str, mark: str, numbers: list[int], digits: int) -> None:
    assert len({clip_of(f"x/{clip}{mark}{number:0{digits}d}.jpg") for number in numbers}) == 1


def test_videos_of_the_labels_go_before_names() -> None:
    rule = GroupBy.parse("video")
    assert rule.key("a_1.jpg", "first") == rule.key("other/b.jpg", "first") != rule.key("a_1.jpg", "second")
    assert rule.key("a_1.jpg") == rule.key("a_2.jpg")
    assert rule.key("portrait.jpg") is None


def test_a_video_keeps_to_one_side_and_to_its_own_when_frames_are_added() -> None:
    def frames(count: int) -> list[SplitImage]:
        paths = [f"clip{video}_{frame:06d}.jpg" for video in range(40) for frame in range(count)]
        return [SplitImage(path_to_image_id(path), path) for path in paths]

    few, many = assign_sides(frames(5), BY_VIDEO), assign_sides(frames(9), BY_VIDEO)
    assert few.items() <= many.items()
    assert set(many.values()) == {"train", "val"}
    by_video: dict[str, set[str]] = {}
    for image in frames(9):
        by_video.setdefault(image.path.split("_")[0], set()).add(many[image.image_id])
    assert {len(sides) for sides in by_video.values()} == {1}


def video_file(folder: Path, name: str, numbers: range, videos: list[str], **keys: Any) -> Path:
    """Write a COCO file of frames whose names tell nothing; `video_id` counts from 1 in each file."""
    content = {
        "videos": [{"id": number, "name": video} for number, video in enumerate(videos, start=1)],
        "categories": [{"id": 1, "name": "thing"}],
        "images": [
            {"id": n, "file_name": f"{n:x}z.jpg", "width": 9, "height": 9, "video_id": 1 + n % len(videos)} | keys
            for n in numbers
        ],
        "annotations": [],
    }
    (folder / name).write_text(json.dumps(content))
    return folder / name


@pytest.mark.parametrize("command", ["split", "export"])
def test_commands_go_by_the_video_of_a_coco_file(tmp_path: Path, command: str) -> None:
    file = video_file(tmp_path, "all.json", range(1, 61), [f"video {number}" for number in range(12)])
    words = [command, str(file), "--split", "50/50", "--group-by", "video", "--near-duplicates", "off"]
    more = ["--images", "none"] if command == "export" else []
    assert main([*words, *more, "--output", str(tmp_path / "sets")]) == 0
    form = "{}.json" if command == "split" else "{}/annotations.json"
    sides = [json.loads((tmp_path / "sets" / form.format(side)).read_text()) for side in ("train", "val")]
    seen = [{image["id"] % 12 for image in side["images"]} for side in sides]
    assert seen[0] | seen[1] == set(range(12))
    assert seen[0]
    assert seen[1]
    assert not seen[0] & seen[1]


def test_leaks_are_found_by_names_of_videos_not_by_numbers(tmp_path: Path, capsys: Capture) -> None:
    train = video_file(tmp_path, "train.json", range(4), ["a", "b"])
    val = video_file(tmp_path, "val.json", range(10, 14), ["c", "d"])
    leaky = video_file(tmp_path, "leaky.json", range(20, 24), ["e", "b"])
    words = ["--group-by", "video", "--near-duplicates", "off"]
    assert main(["split", "--check", str(train), str(val), *words]) == 0
    capsys.readouterr()
    assert main(["split", "--check", str(train), str(leaky), *words]) == 1
    assert "same-group" in capsys.readouterr().out


@pytest.mark.parametrize("option", [("--group-by", "video"), ("--seed", "3"), ("--near-duplicates", "off")])
def test_export_refuses_words_about_a_split_that_it_does_not_make(
    tmp_path: Path, capsys: Capture, option: tuple[str, str]
) -> None:
    file = video_file(tmp_path, "all.json", range(3), ["a"])
    assert main(["export", str(file), "--images", "none", "--output", str(tmp_path / "out"), *option]) == 2
    assert f"{option[0]} says how to split; add --split" in capsys.readouterr().err
