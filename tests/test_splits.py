"""Splits: sides stay when a set grows, groups and near-duplicates stay together, and classes are spread and counted."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pipeline.errors import UserError
from pipeline.images import read_image
from pipeline.paths import path_to_image_id
from pipeline.splits import SplitImage, SplitSettings, assign_sides, parse_shares, split_images
from pipeline.splits.balance import count_classes, draw, format_table
from pipeline.splits.groups import GroupBy, connect
from pipeline.splits.perceptual import BITS, bit_distances, hash_files, near_links, nearest, perceptual_hash
from tests.distinct_pictures import photo

NO_FILES = SplitSettings(near_duplicates=None, seed=7)


def images(count: int, folder_of: int = 10) -> list[SplitImage]:
    """Make images in folders; each 50th has a rare class."""
    paths = [f"site{index // folder_of}/{index:04d}.jpg" for index in range(count)]
    return [
        SplitImage(path_to_image_id(path), path, ("common", "common", *(["rare"] if index % 50 == 0 else [])))
        for index, path in enumerate(paths)
    ]


def test_an_image_keeps_its_side_when_1000_become_1100() -> None:
    for settings in (NO_FILES, SplitSettings((70, 30), 3, "folder", None)):
        before = assign_sides(images(1000), settings)
        after = assign_sides(list(reversed(images(1100))), settings)
        assert len(after) == 1100
        assert {image_id: after[image_id] for image_id in before} == before


@pytest.mark.parametrize(("shares", "expected"), [((80, 10, 10), (800, 100, 100)), ((0.5, 0.5), (500, 500))])
def test_sides_have_their_shares(shares: tuple[float, ...], expected: tuple[int, ...]) -> None:
    found = Counter(assign_sides(images(1000), SplitSettings(shares, 0, "", None)).values())
    assert set(found) == set(("train", "val", "test")[: len(shares)])
    for side, count in zip(("train", "val", "test"), expected, strict=False):
        assert abs(found[side] - count) < 5 * count**0.5


def test_a_seed_is_a_split_of_its_own() -> None:
    sides = [assign_sides(images(500), SplitSettings((50, 50), seed, "", None)) for seed in range(3)]
    same = [np.mean([sides[0][key] == other[key] for key in sides[0]]) for other in sides[1:]]
    assert all(0.4 < share < 0.6 for share in same)


def test_a_side_without_a_share_gets_nothing() -> None:
    settings = SplitSettings((90, 0, 10), 1, "", None)
    assert settings.names == ("train", "test")
    assert set(assign_sides(images(300), settings).values()) == {"train", "test"}


def test_groups_stay_together() -> None:
    for rule in ("folder", r"regex:^(site\d+)/"):
        split = split_images(images(600), SplitSettings((60, 20, 20), 5, rule, None))
        by_folder = {
            folder: {split.sides[image.image_id] for image in images(600) if image.path.startswith(f"{folder}/")}
            for folder in {image.path.split("/")[0] for image in images(600)}
        }
        assert {len(sides) for sides in by_folder.values()} == {1}
        assert len({next(iter(sides)) for sides in by_folder.values()}) == 3
        assert (split.groups, split.largest, split.ungrouped) == (60, 10, ())


def test_the_group_of_an_image_decides_not_its_name() -> None:
    first = [SplitImage(f"a{index}", f"day{index % 40}/a{index}.jpg") for index in range(200)]
    second = [SplitImage(f"b{index}", f"day{index % 40}/b{index}.jpg") for index in range(40)]
    settings = SplitSettings((50, 50), 2, "folder", None)
    early, late = assign_sides(first, settings), assign_sides(second, settings)
    assert [late[f"b{index}"] for index in range(40)] == [early[f"a{index}"] for index in range(40)]


def test_what_fits_no_group_stands_for_itself() -> None:
    split = split_images(
        [SplitImage("1", "v1_a.jpg"), SplitImage("2", "v1_b.jpg"), SplitImage("3", "other.jpg")],
        SplitSettings(group_by=r"regex:^v\d+", near_duplicates=None),
    )
    assert split.ungrouped == ("other.jpg",)
    assert (split.groups, split.largest) == (2, 2)


@pytest.mark.parametrize(
    ("rule", "path", "key"),
    [
        ("", "a/b.jpg", None),
        ("folder", "a/b/c.jpg", "a/b"),
        ("folder", "c.jpg", "."),
        (r"regex:v\d+", "x/v12_003.jpg", "v12"),
        (r"regex:^(\w)(\w)?_", "a_1.jpg", "a\0"),
        (r"regex:^z", "a_1.jpg", None),
    ],
)
def test_keys_of_groups(rule: str, path: str, key: str | None) -> None:
    assert GroupBy.parse(rule).key(path) == key


def test_near_duplicates_never_part(tmp_path: Path) -> None:
    found = []
    for seed in range(14):
        for copy in range(3):
            picture = photo(seed)
            if copy == 1:
                picture = picture.resize((90, 90))
            if copy == 2:
                picture = ImageEnhance.Brightness(picture).enhance(1.1)
            name = f"{seed}_{copy}.{'png' if copy else 'jpg'}"
            picture.save(tmp_path / name)
            found.append(SplitImage(path_to_image_id(name), name, (), tmp_path / name))
    split = split_images(found, SplitSettings((50, 50), 1))
    assert (split.groups, split.largest, split.similar, split.unread) == (14, 3, 42, ())
    sides = [{split.sides[image.image_id] for image in found[start : start + 3]} for start in range(0, 42, 3)]
    assert all(len(side) == 1 for side in sides)
    assert len(set.union(*sides)) == 2
    apart = assign_sides(found, SplitSettings((50, 50), 1, "", None))
    assert any(len({apart[image.image_id] for image in found[start : start + 3]}) == 2 for start in range(0, 42, 3))


def test_only_images_that_new_ones_resemble_may_change_sides(tmp_path: Path) -> None:
    found = []
    for seed in range(25):
        photo(seed).save(tmp_path / f"{seed}.png")
        found.append(SplitImage(f"old{seed}", f"{seed}.png", (), tmp_path / f"{seed}.png"))
    for seed in range(5):
        photo(seed).resize((96, 96)).save(tmp_path / f"new{seed}.png")
    new = [SplitImage(f"new{seed}", f"new{seed}.png", (), tmp_path / f"new{seed}.png") for seed in range(5)]
    settings = SplitSettings((50, 50), 0)
    before, after = assign_sides(found, settings), assign_sides([*found, *new], settings)
    assert {key: after[key] for key in before if int(key[3:]) >= 5} == {
        key: side for key, side in before.items() if int(key[3:]) >= 5
    }
    assert all(after[f"new{seed}"] == after[f"old{seed}"] for seed in range(5))


def test_near_duplicates_join_whole_groups(tmp_path: Path) -> None:
    for name, seed in (("a/1.png", 1), ("a/2.png", 2), ("b/1.png", 1), ("b/3.png", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo(seed).save(tmp_path / name)
    found = [SplitImage(name, name, (), tmp_path / name) for name in ("a/1.png", "a/2.png", "b/1.png", "b/3.png")]
    split = split_images(found, SplitSettings((50, 50), 0, "folder"))
    assert (split.groups, split.largest, split.similar) == (1, 4, 2)


def test_a_file_that_cannot_be_read_is_named_and_split_all_the_same(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    found = [SplitImage(name, name, (), tmp_path / name) for name in ("good.png", "bad.png")]
    split = split_images(found, SplitSettings())
    assert set(split.sides) == {"good.png", "bad.png"}
    assert [path for path, _ in split.unread] == ["bad.png"]


@pytest.mark.parametrize("name", ["gone.png", None])
def test_missing_files_are_refused(tmp_path: Path, name: str | None) -> None:
    lone = SplitImage("1", "gone.png", (), tmp_path / name if name else None)
    with pytest.raises(UserError, match=r"1 of 1 image files are not there .first: gone.png.*--near-duplicates off"):
        assign_sides([lone], SplitSettings())


def test_a_copy_hashes_like_its_source_and_another_image_does_not() -> None:
    pictures = [photo(seed) for seed in range(12)]
    hashes = np.array([perceptual_hash(np.asarray(picture)) for picture in pictures])
    between = bit_distances(hashes, hashes)[np.triu_indices(12, 1)]
    assert between.min() > 20
    for picture, expected in zip(pictures, hashes, strict=True):
        memory = io.BytesIO()
        picture.resize((100, 100)).save(memory, "JPEG", quality=60)
        again = perceptual_hash(np.asarray(Image.open(memory)))
        assert bit_distances(again[None], expected[None])[0, 0] <= 10


def test_files_are_hashed_upright_and_in_order(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(3).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    photo(4).save(tmp_path / "other.png")
    found = hash_files([("other.png", tmp_path / "other.png"), ("turned.jpg", tmp_path / "turned.jpg")])
    upright = perceptual_hash(np.asarray(photo(3)))
    assert found.rows.tolist() == [0, 1]
    assert bit_distances(found.hashes, upright[None])[1, 0] <= 5
    assert np.array_equal(found.hashes[0], perceptual_hash(read_image(tmp_path / "other.png")))


@pytest.mark.parametrize("distance", [0, 1, 4, 10, 32])
def test_links_connect_what_all_pairs_would(distance: int) -> None:
    rng = np.random.default_rng(distance)
    rows = [*rng.integers(0, 2**63, (40, 2), dtype=np.uint64)]
    for _ in range(160):
        row = rows[rng.integers(len(rows))].copy()
        for bit in rng.integers(0, BITS, rng.integers(0, distance + 4)):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        rows.append(row)
    hashes = np.array(rows)
    pairs = np.argwhere(bit_distances(hashes, hashes) <= distance)
    expected, found = connect(len(rows), pairs), connect(len(rows), near_links(hashes, distance))
    assert expected.max() < len(rows) - 1
    assert len(set(zip(expected.tolist(), found.tolist(), strict=True))) == expected.max() + 1 == found.max() + 1


@pytest.mark.parametrize("count", [0, 1])
def test_few_hashes_have_no_links(count: int) -> None:
    assert near_links(np.zeros((count, 2), np.uint64), 10).shape == (0, 2)


def test_nearest_of_others() -> None:
    others = np.array([[0, 0], [0b1111, 0], [2**63, 7]], np.uint64)
    indices, distances = nearest(np.array([[0b111, 0], [2**63, 7], [1, 0]], np.uint64), others)
    assert indices.tolist() == [1, 2, 0]
    assert distances.tolist() == [1, 0, 1]
    assert nearest(np.zeros((0, 2), np.uint64), others)[0].shape == (0,)


def test_bits_are_counted() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 2**63, (5, 2), dtype=np.uint64), rng.integers(0, 2**63, (4, 2), dtype=np.uint64)
    expected = [
        [sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(one, two, strict=True)) for two in right] for one in left
    ]
    assert bit_distances(left, right).tolist() == expected
    assert bit_distances(np.array([[2**64 - 1] * 2], np.uint64), np.zeros((1, 2), np.uint64)).tolist() == [[128]]


def test_the_chosen_seed_spreads_a_rare_class() -> None:
    chosen = split_images(images(400), SplitSettings((80, 10, 10), None, "", None))
    assert chosen.sides == assign_sides(images(400), SplitSettings((80, 10, 10), chosen.seed, "", None))

    def misfit(seed: int | None) -> float:
        split = split_images(images(400), SplitSettings((80, 10, 10), seed, "", None))
        rare = Counter(split.sides[image.image_id] for image in images(400) if "rare" in image.classes)
        return abs(rare["train"] - 6.4) + abs(rare["val"] - 0.8) + abs(rare["test"] - 0.8)

    assert misfit(None) < 1
    assert np.mean([misfit(seed) for seed in range(20)]) > 1


def test_the_table_counts_images() -> None:
    rows = count_classes(
        [("1", ("cat", "cat")), ("2", ("cat", "owl")), ("3", ())],
        {"1": "train", "2": "val", "3": "val"},
        ("train", "val"),
    )
    assert [(row.name, row.counts) for row in rows] == [(None, (1, 2)), ("owl", (0, 1)), ("cat", (1, 1))]
    assert format_table(rows, ("train", "val")).splitlines() == [
        "class         train      val",
        "all images        1        2",
        "owl               0        1  none in train",
        "cat               1        1",
    ]


def test_draws_do_not_hang_together() -> None:
    keys = np.arange(4000, dtype=np.uint64)
    sides = draw(keys, 0, (1, 1))
    assert abs(sides.mean() - 0.5) < 0.05
    assert abs(np.mean(sides[1:] == sides[:-1]) - 0.5) < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse_shares("80:20"), "'80:20' is no split"),
        (lambda: SplitSettings((100,)), "two or three numbers"),
        (lambda: SplitSettings((100, 0)), "two of them over 0"),
        (lambda: SplitSettings((90, -10, 20)), "two of them over 0"),
        (lambda: SplitSettings((float("nan"), 1)), "two of them over 0"),
        (lambda: SplitSettings(seed=-1), "whole number from 0 up"),
        (lambda: SplitSettings(near_duplicates=33), "0 to 32 bits, not 33"),
        (lambda: SplitSettings(group_by="camera"), "unknown groups 'camera'"),
        (lambda: SplitSettings(group_by="regex:("), "pattern cannot be read"),
        (lambda: assign_sides([], SplitSettings()), "no images to split"),
    ],
)
def test_wrong_settings_are_named(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


def test_shares_are_read() -> None:
    assert parse_shares("80/10/10") == (80, 10, 10)
    assert parse_shares("0.8/0.2") == (0.8, 0.2)
