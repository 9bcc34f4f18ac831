"""Scenes: the same bytes for the same seed, and a truth that is true."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from models.training.referring import WORDS, mirror_expression, refer
from models.training.scene_fills import sample_fill, sample_rgb
from models.training.scene_shapes import shape_polygon, stamp_shape
from models.training.scenes import (
    COLOURS,
    HELD_OUT_PAIRS,
    PAIRS,
    SHAPES,
    TRAINED_PAIRS,
    Scene,
    SceneConfig,
    render_scene,
    scene_seed,
    write_scenes,
)

SMALL = SceneConfig(size=128)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(seed) for seed in range(80)]


def _digest(scene: Scene) -> bytes:
    told = repr((scene.labels, scene.expressions)).encode()
    parts = (scene.image, scene.boxes_xyxy, scene.masks)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts) + told).digest()


def _true_of(text: str, scene: Scene) -> list[int]:
    """All objects that a phrase is true of, by the plainest reading, without margins."""
    words = text.split()
    assert words.pop(0) == "the"
    boxes = scene.boxes_xyxy
    middle = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes]
    area = [int(mask.sum()) for mask in scene.masks]

    def named(phrase: list[str]) -> list[int]:
        wanted = set(phrase) - {"shape"}
        return [i for i, label in enumerate(scene.labels) if wanted <= set(label.split())]

    best = {
        "leftmost": lambda i: -middle[i][0],
        "rightmost": lambda i: middle[i][0],
        "topmost": lambda i: -middle[i][1],
        "bottommost": lambda i: middle[i][1],
        "large": lambda i: area[i],
        "largest": lambda i: area[i],
        "small": lambda i: -area[i],
        "smallest": lambda i: -area[i],
    }
    if words[0] in best:
        members = named(words[1:])
        assert len(members) > 1, text
        return [max(members, key=best[words[0]])]
    if words.count("the") == 0:
        return named(words)
    split = words.index("the")
    anchors = named(words[split + 1 :])
    assert len(anchors) == 1, text
    x, y = middle[anchors[0]]
    holds = {
        "left": lambda i: middle[i][0] < x,
        "right": lambda i: middle[i][0] > x,
        "above": lambda i: middle[i][1] < y,
        "below": lambda i: middle[i][1] > y,
    }
    return [i for i in named(words[:2]) if holds[words[2]](i)]


def test_names() -> None:
    assert len(COLOURS) == 8
    assert len(SHAPES) == 10
    assert len(PAIRS) == len(set(PAIRS)) == 80
    assert PAIRS[:2] == ("red circle", "red square")
    assert set(PAIRS) > HELD_OUT_PAIRS
    assert 8 <= len(HELD_OUT_PAIRS) <= 10
    assert set(TRAINED_PAIRS) == set(PAIRS) - HELD_OUT_PAIRS
    words = [word for pair in HELD_OUT_PAIRS for word in pair.split()]
    assert all(words.count(shape) == 1 for shape in SHAPES)
    assert all(1 <= words.count(colour) <= 2 for colour in COLOURS)


def test_same_seed_same_bytes(scenes: list[Scene]) -> None:
    for seed in (0, 3, 2**63 + 5):
        assert _digest(render_scene(seed)) == _digest(render_scene(seed, SceneConfig()))
    assert len({_digest(scene) for scene in scenes}) == len(scenes)
    assert len({scene_seed(seed, index) for seed in range(9) for index in range(99)}) == 891


@pytest.mark.parametrize("size", [64, 128, 256])
def test_truth_is_tight_and_disjoint(size: int) -> None:
    config = SceneConfig(size=size)
    for seed in range(25):
        scene = render_scene(seed, config)
        count = len(scene.labels)
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (count, size, size)
        assert scene.masks.dtype == np.bool_
        assert scene.boxes_xyxy.shape == (count, 4)
        assert scene.boxes_xyxy.dtype == np.float32
        assert scene.masks.sum(axis=0, dtype=np.int64).max(initial=0) <= 1
        for mask, box in zip(scene.masks, scene.boxes_xyxy, strict=True):
            rows, columns = np.nonzero(mask)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == expected


def test_the_masks_are_where_the_colours_are() -> None:
    found = []
    for seed in range(40):
        scene = render_scene(seed)
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            if label.startswith(("red", "blue", "green")) and mask.sum() > 900:
                mean = scene.image[mask].mean(axis=0)
                strongest = ("red", "green", "blue")[int(mean.argmax())]
                found.append(label.startswith(strongest))
    assert len(found) > 30
    assert np.mean(found) > 0.97


def test_counts_sizes_and_pairs(scenes: list[Scene]) -> None:
    counts = [len(scene.labels) for scene in scenes]
    assert max(counts) >= 10
    assert max(counts) <= 12
    seen = {label for scene in scenes for label in scene.labels}
    assert not seen & HELD_OUT_PAIRS
    assert len(seen) > 60
    boxes = np.concatenate([scene.boxes_xyxy for scene in scenes])
    extents = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 256
    assert extents.max() <= 0.61
    assert np.quantile(extents, 0.05) < 0.12 < 0.4 < extents.max()
    repeated = [len(set(scene.labels)) < len(scene.labels) for scene in scenes]
    assert np.mean(repeated) > 0.4


def test_a_ring_has_a_hole_and_no_shape_is_another() -> None:
    fills = {}
    for shape in SHAPES:
        stamp = stamp_shape(shape, 90, 0.0)
        assert max(stamp.mask.any(axis=0).sum(), stamp.mask.any(axis=1).sum()) in (90, 91)
        rows, columns = np.nonzero(stamp.mask)
        box_px = (rows.max() + 1 - rows.min()) * (columns.max() + 1 - columns.min())
        fills[shape] = stamp.area_px / box_px
    ring = stamp_shape("ring", 90, 0.3)
    assert not ring.mask[40:50, 40:50].any()
    assert fills["circle"] == pytest.approx(np.pi / 4, abs=0.02)
    assert fills["ring"] == pytest.approx(np.pi / 4 * (1 - 0.55**2), abs=0.03)
    assert fills["square"] > 0.98
    assert fills["diamond"] == pytest.approx(0.5, abs=0.03)
    outlined = stamp_shape("star", 60, 1.0, outline_px=2)
    assert outlined.outline.any()
    assert not stamp_shape("star", 60, 1.0).outline.any()


def test_expressions_are_true_of_one_object() -> None:
    texts = []
    for seed in range(1000, 1250):
        scene = render_scene(seed, SMALL)
        assert len(scene.expressions) <= 4
        assert bool(scene.expressions) == bool(scene.labels)
        assert len({phrase.text for phrase in scene.expressions}) == len(scene.expressions)
        for phrase in scene.expressions:
            assert _true_of(phrase.text, scene) == [phrase.object_index], phrase
            texts.append(phrase.text)
    assert {word for text in texts for word in text.split()} == set(WORDS)
    assert len(WORDS) == len(set(WORDS))


def test_relations_keep_their_margin() -> None:
    labels = ("red circle", "red circle", "blue square")
    areas = np.full(3, 400, dtype=np.float32)
    rng = np.random.default_rng(0)

    def told(first_x: float, second_x: float) -> set[str]:
        boxes = [[x - 10, 90, x + 10, 110] for x in (first_x, second_x, 100)]
        found = refer(labels, np.array(boxes, dtype=np.float32), areas, 200, rng, limit=99)
        return {phrase.text for phrase in found}

    assert "the red circle left of the blue square" in told(60, 140)
    assert "the red circle left of the blue square" not in told(85, 140)
    assert "the red circle left of the blue square" not in told(60, 98)
    assert "the leftmost red circle" in told(60, 98)
    assert "the leftmost red circle" not in told(60, 64)
    assert not {"the red circle", "the circle", "the red shape"} & told(60, 140)
    assert {"the blue square", "the square", "the blue shape"} <= told(60, 140)


def test_mirror_expression() -> None:
    text = "the leftmost red circle right of the blue square"
    assert mirror_expression(text) == "the rightmost red circle left of the blue square"
    assert mirror_expression(mirror_expression(text)) == text
    assert mirror_expression("the topmost ring") == "the topmost ring"


def test_mirrored_expressions_hold_in_the_mirrored_scene(scenes: list[Scene]) -> None:
    for scene in scenes:
        boxes_xyxy = scene.boxes_xyxy.copy()
        boxes_xyxy[:, [0, 2]] = 256 - scene.boxes_xyxy[:, [2, 0]]
        flipped = Scene(scene.image[:, ::-1], boxes_xyxy, scene.labels, scene.masks[:, :, ::-1], ())
        for phrase in scene.expressions:
            assert _true_of(mirror_expression(phrase.text), flipped) == [phrase.object_index]


def test_no_objects() -> None:
    scene = render_scene(5, SceneConfig(size=96, max_objects=0))
    assert scene.labels == ()
    assert scene.expressions == ()
    assert scene.boxes_xyxy.shape == (0, 4)
    assert scene.masks.shape == (0, 96, 96)
    empty = [not render_scene(seed, SceneConfig(size=64)).labels for seed in range(150)]
    assert 1 <= sum(empty) <= 15


def test_fewest_objects() -> None:
    """Scenes that are not left empty try at least so many; where there is no room one may be missing."""
    config = SceneConfig(size=128, max_objects=6, min_objects=5)
    counts = [len(render_scene(seed, config).labels) for seed in range(60)]
    assert set(counts) <= {0, 4, 5, 6}
    assert sum(count >= 5 for count in counts) > 40
    assert _digest(render_scene(3, SceneConfig(min_objects=1))) == _digest(render_scene(3)), "1 changes nothing"


def test_one_pair_and_photos(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.full((90, 200, 3), (9, 200, 30), dtype=np.uint8)).save(photo)
    config = SceneConfig(size=64, max_objects=1, pairs=("orange ring",), photos=(photo,))
    made = [render_scene(seed, config) for seed in range(40)]
    assert {label for scene in made for label in scene.labels} == {"orange ring"}
    greens = [np.median(scene.image[:, :, 1].astype(int)) for scene in made]
    shares = np.mean([150 < green < 250 for green in greens])
    assert shares > 0.2
    assert _digest(render_scene(1, config)) == _digest(made[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 32}, "size must be at least 64 pixels, not 32"),
        ({"max_objects": -1}, "max_objects must be 0 to 100, not -1"),
        ({"max_objects": 101}, "max_objects must be 0 to 100, not 101"),
        ({"min_objects": 0}, "min_objects must be 1 to 12, not 0"),
        ({"max_objects": 3, "min_objects": 4}, "min_objects must be 1 to 3, not 4"),
        ({"pairs": ()}, "pairs must hold at least one name"),
        ({"pairs": ("red dog",)}, "red dog"),
    ],
)
def test_bad_config(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneConfig(**fields)  # type: ignore[arg-type]


def test_bad_input(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
        render_scene(-1)
    with pytest.raises(ValueError, match="index"):
        scene_seed(0, -1)
    with pytest.raises(ValueError, match="count and seed"):
        write_scenes(tmp_path, -1, 0)
    with pytest.raises(ValueError, match="'blob'"):
        shape_polygon("blob")
    with pytest.raises(ValueError, match="extent_px"):
        stamp_shape("ring", 1, 0.0)
    with pytest.raises(ValueError, match="'beige'"):
        sample_rgb("beige", rng)
    with pytest.raises(ValueError, match="'beige'"):
        sample_fill("beige", 9, 9, rng)
    with pytest.raises(ValueError, match=r"not \(0, 4\)"):
        refer(("red ring",), np.zeros((0, 4), np.float32), np.zeros(1, np.float32), 64, rng)


def test_write_scenes_round_trips_through_pycocotools(tmp_path: Path) -> None:
    config = SceneConfig(size=96, pairs=PAIRS)
    write_scenes(tmp_path / "a", 12, 7, config)
    coco = COCO(str(tmp_path / "a" / "instances.json"))
    names = {row["id"]: row["name"] for row in coco.loadCats(coco.getCatIds())}
    assert [names[place] for place in range(1, 81)] == list(PAIRS)
    captions = json.loads((tmp_path / "a" / "captions.json").read_text())
    told = {(row["image_id"], row["annotation_id"], row["text"]) for row in captions}
    expected = set()
    for image_id in range(1, 13):
        scene = render_scene(scene_seed(7, image_id - 1), config)
        row = coco.loadImgs([image_id])[0]
        with Image.open(tmp_path / "a" / "images" / row["file_name"]) as image:
            assert image.size == (row["width"], row["height"]) == (96, 96)
            difference = np.abs(np.asarray(image).astype(int) - scene.image)
        assert difference.mean() < 5
        annotations = coco.loadAnns(coco.getAnnIds([image_id]))
        assert [names[row["category_id"]] for row in annotations] == list(scene.labels)
        for row, mask, box in zip(annotations, scene.masks, scene.boxes_xyxy, strict=True):
            truth = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            assert coco_mask.iou([coco.annToRLE(row)], [truth], [0])[0, 0] == 1.0
            assert row["area"] == mask.sum()
            assert row["iscrowd"] == 0
            x, y, width, height = row["bbox"]
            assert [x, y, x + width, y + height] == box.tolist()
            assert coco_mask.toBbox(truth).tolist() == row["bbox"]
        for phrase in scene.expressions:
            expected.add((image_id, annotations[phrase.object_index]["id"], phrase.text))
    assert told == expected
    assert len(captions) == len(told)


def test_write_scenes_same_seed_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_scenes(tmp_path / name, 3, seed, SMALL)

    def content(name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    assert content("a") == content("b") != content("c")
    assert len(content("a")) == 5
    with pytest.raises(FileExistsError, match="already holds scenes"):
        write_scenes(tmp_path / "a", 3, 7, SMALL)
    write_scenes(tmp_path / "none", 0, 7)
    assert json.loads((tmp_path / "none" / "instances.json").read_text())["images"] == []
