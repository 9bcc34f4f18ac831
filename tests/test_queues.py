"""The review's order: each sign finds its own kind of mistake, and what a person decided is not doubted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.masks import encode_mask
from pipeline.looks import NUMBERS, look_at, misplaced, read_looks, resample, strangers
from pipeline.queues import ImageScore, ObjectDoubts, QueueColumns, score_images
from pipeline.reviewed.changes import REJECTED_TAG, ReviewedObject
from tests.review_runs import disc

HW = (90, 120)


def an_object(
    key: str, x: float, y: float, radius: float = 10, name: str = "round thing", score: float = 0.9
) -> ReviewedObject:
    mask = disc(HW, (x, y), radius)
    box = (x - radius, y - radius, x + radius + 1, y + radius + 1)
    return ReviewedObject(key, name, box, encode_mask(mask), score, 0.95, name, box, origin="model")


def usual(count: int = 12) -> list[tuple[str, list[ReviewedObject]]]:
    """Return images with two good objects each, of slightly different sizes."""
    random = np.random.default_rng(0)
    return [
        (
            f"{number:016x}",
            [
                an_object("left", 25, 30, 10 + random.uniform(-1, 1), score=random.uniform(0.8, 0.95)),
                an_object("right", 80, 55, 15 + random.uniform(-1, 1), "square", random.uniform(0.8, 0.95)),
            ],
        )
        for number in range(count)
    ]


def judge(images: list[tuple[str, list[ReviewedObject]]]) -> tuple[ObjectDoubts, list[ImageScore]]:
    columns = QueueColumns()
    for image_id, objects in images:
        columns.add(image_id, f"photos/{image_id}.png", HW, objects)
    return columns.doubts(), score_images(columns)


SPOILED = {
    "score": an_object("left", 25, 30, score=0.36),
    "mask": replace(an_object("left", 25, 30), mask_score=0.4),
    "odd": an_object("left", 40, 40, 33),
}


@pytest.mark.parametrize("sign", SPOILED)
def test_a_spoiled_object_has_its_sign_and_comes_first(sign: str) -> None:
    images = usual()
    images[5][1][0] = SPOILED[sign]
    judged, scores = judge(images)
    assert int(np.argmax(judged.signs[sign])) == 10
    assert int(np.argmax(judged.doubt)) == 10
    (first,) = [score for score in scores if score.order == 1]
    assert first.image_id == images[5][0]
    assert first.doubts["left"] == pytest.approx(judged.doubt[10])


@pytest.mark.parametrize(("name", "sign"), [("square", "conflict"), ("round thing", "duplicate")])
def test_of_two_objects_in_one_place_the_weaker_is_doubted(name: str, sign: str) -> None:
    images = usual()
    images[3][1].append(an_object("again", 26, 30, name=name, score=0.6))
    judged, scores = judge(images)
    assert int(np.argmax(judged.signs[sign])) == 8
    assert judged.signs[sign][8] > 4 * judged.signs[sign][6]
    assert [score.image_id for score in scores if score.order == 1] == [images[3][0]]
    assert scores[3].conflict > 0.5
    assert ("same object twice" in scores[3].why) == (sign == "duplicate")


def test_what_a_person_decided_is_not_doubted() -> None:
    images = usual()
    images[2][1][0] = replace(SPOILED["odd"], origin="model+human")
    images[4][1].append(replace(an_object("twice", 26, 30, score=0.5), tags=(REJECTED_TAG,)))
    judged, scores = judge(images)
    assert judged.doubt[4] == 0
    assert set(scores[4].doubts) == {"left", "right"}
    columns = QueueColumns()
    columns.add("a" * 16, "a.png", HW, [SPOILED["odd"]], accepted=True)
    columns.add("b" * 16, "b.png", HW, [SPOILED["odd"]])
    columns.add("c" * 16, "c.png", None, [], failed=True)
    assert [(score.order, score.gain > 0) for score in score_images(columns)] == [
        (None, False),
        (1, True),
        (None, False),
    ]


def test_an_image_without_labels_among_labelled_ones_is_likely_missed() -> None:
    columns = QueueColumns()
    for number in range(4):
        columns.add(f"{number:016x}", f"full/{number}.png", HW, [an_object("one", 25, 30)] if number else [])
        columns.add(f"{number + 9:016x}", f"none/{number}.png", HW, [])
    scores = score_images(columns)
    assert [score.likely_missed for score in scores] == [1.0, 0, 0, 0, 0, 0, 0, 0]
    assert (scores[0].order, scores[0].why) == (1, "No label, where other images of the folder have some.")


def test_a_proposal_on_a_label_is_a_conflict() -> None:
    columns = QueueColumns()
    label = an_object("one", 25, 30)
    columns.add("a" * 16, "a.png", HW, [label], [replace(label, object_id="new", class_name="square")])
    columns.add("b" * 16, "b.png", HW, [label], [an_object("elsewhere", 80, 60)])
    first, second = score_images(columns)
    assert (first.conflict, second.conflict) == (1.0, 0.0)
    assert (first.order, second.order) == (1, 2)


def test_nothing_at_all_has_no_order() -> None:
    assert score_images(QueueColumns()) == []
    assert len(QueueColumns().doubts().doubt) == 0


def a_photo(objects: list[ReviewedObject], colours: dict[str, tuple[int, int, int]]) -> np.ndarray:
    photo = np.full((*HW, 3), 110, np.uint8)
    for found in objects:
        left, top, right, bottom = found.box_xyxy
        shape = disc(HW, ((left + right - 1) / 2, (top + bottom - 1) / 2), (right - left - 1) / 2)
        photo[shape] = colours[found.class_name]
    return photo


def test_looking_finds_labels_on_nothing_and_of_another_class() -> None:
    colours = {"round thing": (250, 30, 30), "square": (30, 200, 60)}
    columns, images = QueueColumns(), usual(20)
    for number, (image_id, objects) in enumerate(images):
        photo = a_photo(objects, colours)
        if number == 4:
            objects[0] = an_object("left", 60, 75)
        if number == 7:
            objects[1] = replace(objects[1], class_name="round thing")
        columns.add(image_id, f"{number}.png", HW, objects, looks=look_at(photo, objects))
    signs = columns.doubts().signs
    assert int(np.argmax(signs["misplaced"])) == 8
    assert int(np.argmax(signs["stranger"])) in (8, 15)
    assert signs["stranger"][15] > 0.9
    assert np.median(signs["stranger"]) < 0.1


def test_images_are_looked_at_small_and_upright(tmp_path: Path) -> None:
    found = an_object("left", 25, 30, 12)
    photo = a_photo([found], {"round thing": (250, 30, 30)})
    large = np.kron(photo, np.ones((16, 16, 1), np.uint8))
    picture = Image.fromarray(np.rot90(large))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    big = an_object("left", 25, 30, 12)
    big = replace(big, mask=None, box_xyxy=(13 * 16.0, 18 * 16.0, 38 * 16.0, 43 * 16.0))
    looks = read_looks(tmp_path / "turned.png", (HW[0] * 16, HW[1] * 16), [big])
    assert looks is not None
    assert looks[0, 0] > 2 * looks[0, 1]
    assert read_looks(tmp_path / "turned.png", (1000, 3000), [big]) is None
    (tmp_path / "text.png").write_text("no image")
    assert read_looks(tmp_path / "text.png", HW, [found]) is None
    assert look_at(photo, []).shape == (0, NUMBERS)
    assert np.isnan(look_at(photo, [an_object("out", 300, 300, 5)])).all()


def test_few_objects_are_not_compared() -> None:
    looks = np.zeros((3, NUMBERS), np.float32)
    assert misplaced(looks).tolist() == strangers(looks, np.zeros(3, np.int64)).tolist() == [0, 0, 0]


def test_resampling_keeps_what_is_there() -> None:
    mask = disc((40, 60), (30, 20), 15)
    np.testing.assert_array_equal(resample(mask, 40, 60), mask)
    np.testing.assert_array_equal(resample(resample(mask, 120, 180), 40, 60), mask)
    assert resample(np.ones((1, 1), bool), 3, 2).all()
