"""Boxes and masks as FiftyOne's documents hold them: to the pixel both ways, and what is no object."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.mask_crops import crop_mask
from models.masks import decode_mask, encode_mask
from pipeline.review import documents, schema
from pipeline.review.written import Written, note_line
from tests.review_runs import HW, a_photo, disc

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@given(data=st.data(), height=st.integers(1, 40), width=st.integers(1, 40))
def test_a_crop_is_what_decoding_gives(data: st.DataObject, height: int, width: int) -> None:
    rows = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=height, max_size=height))
    mask = np.array([[value >> column & 1 for column in range(width)] for value in rows], bool)
    cropped = crop_mask(encode_mask(mask))
    if not mask.any():
        assert cropped is None
        return
    assert cropped is not None
    (x, y, w, h), crop = cropped[0].astype(int), cropped[1]
    again = np.zeros_like(mask)
    again[y : y + h, x : x + w] = crop
    np.testing.assert_array_equal(again, mask)


def test_a_mask_stays_where_it_is_when_its_box_moves_by_part_of_a_pixel() -> None:
    mask = disc((21, 21), (10, 10), 10)
    placed = decode_mask(documents.place_mask(mask, (45.05, 24.94, 65.97, 45.91), HW))
    np.testing.assert_array_equal(placed, disc(HW, (55, 35), 10))
    corner = documents.place_mask(np.ones((3, 5), bool), (79.8, 59.9, 80.0, 60.0), HW)
    np.testing.assert_array_equal(np.argwhere(decode_mask(corner)), [[59, 79]])
    tiny = decode_mask(documents.place_mask(np.ones((1, 1), bool), (3.1, 4.2, 3.3, 4.4), HW))
    np.testing.assert_array_equal(np.argwhere(tiny), [[4, 3]])


def test_a_crop_of_a_large_image_is_what_decoding_gives() -> None:
    mask = disc((3000, 2500), (1400.3, 1700.8), 900) & ~disc((3000, 2500), (1300, 1500), 200)
    rle = encode_mask(mask)
    cropped = crop_mask(rle)
    assert cropped is not None
    x, y, w, h = cropped[0].astype(int)
    np.testing.assert_array_equal(cropped[1], mask[y : y + h, x : x + w])


@given(data=st.data(), side=st.integers(1, 5000), other=st.integers(1, 5000))
def test_boxes_land_on_their_pixels_for_readers_that_truncate_or_round(
    data: st.DataObject, side: int, other: int
) -> None:
    start = data.draw(st.integers(0, side - 1))
    length = data.draw(st.integers(1, side - start))
    for vertical in (False, True):
        box = [0, start, other, length] if vertical else [start, 0, length, other]
        hw = (side, other) if vertical else (other, side)
        relative = documents.box_to_rel(np.array(box, float), hw)
        low, extent = relative[vertical], relative[2 + vertical]
        assert 0 <= low <= low + extent <= 1
        assert int(low * side) == start == round(low * side)
        assert int((low + extent) * side) == start + length == round((low + extent) * side)


def test_a_stored_document_is_what_fiftyone_makes_of_a_detection() -> None:
    import fiftyone as fo
    from bson import ObjectId

    from pipeline.reviewed.convert import record_to_objects

    (first, *_) = record_to_objects(a_photo("a.png"))
    document = documents.object_to_document(first, HW, 1, ObjectId())
    detection = fo.Detection.from_dict(document)
    assert detection.label == first.class_name
    left, top, width, height = np.round(np.multiply(detection.bounding_box, [80, 60, 80, 60])).astype(int)
    full = np.zeros(HW, bool)
    full[top : top + height, left : left + width] = detection.mask
    np.testing.assert_array_equal(full, disc(HW, (20, 20), 10))
    values = {name: detection[name] for name in ("object_id", "class_id", "prompt", "mask_score", "detector_box")}
    made = fo.Detection(
        label=detection.label,
        bounding_box=list(detection.bounding_box),
        mask=detection.mask,
        confidence=detection.confidence,
        tags=[],
        **values,
    ).to_dict()
    assert made.keys() == document.keys()
    assert {key for key in made if key not in ("_id", "mask") and made[key] != document[key]} == set()
    np.testing.assert_array_equal(documents.unpack_mask(made["mask"]), documents.unpack_mask(document["mask"]))


def test_the_note_of_what_was_written_knows_where_each_label_was() -> None:
    box = [0.125, 0.25, 0.5, 0.125]
    label = {"_id": 7, "object_id": "an\tid [1]", "label": 'a "b"\tc', "bounding_box": box, "confidence": 0.5}
    drawn = {"_id": 8, "label": "beetle", "bounding_box": box}
    line = {"_id": 9, "label": "way", "points": [[(0, 0), (1, 1)]]}
    lines = [note_line(document) for document in (label, drawn, line)]
    earlier = f"{documents.signature(drawn)} of an earlier note"
    stored = {"row": "r", "state": "s", "tags": ["t"], schema.PREDICTIONS: [*lines, earlier]}
    note = Written.from_document(stored)
    assert note is not None
    keys = ("an\tid [1]", "8", "9", "of an earlier note")
    assert tuple(note.labels[schema.PREDICTIONS]) == keys
    assert note.labels[schema.PREDICTIONS]["8"] == documents.signature(drawn)
    places = note.places[schema.PREDICTIONS]
    assert places.keys() == {"an\tid [1]", "8"}
    known = places[keys[0]].to_object(keys[0], (80, 160))
    assert (known.class_name, known.box_xyxy, known.score) == ('a "b"\tc', (20, 20, 100, 30), 0.5)
    assert (known.origin, places["8"].to_object("8", HW).origin) == ("model", "human")
    assert Written.from_document(note.to_document()) == note


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (61, 20, 4)])
def test_masks_of_any_size_fill_their_box(shape: tuple[int, ...]) -> None:
    import fiftyone.core.utils as fou

    packed = fou.serialize_numpy_array(np.full(shape, 7, np.float32))
    found = documents.document_to_object(
        {"_id": 1, "label": None, "bounding_box": [0.5004, -0.2, 0.9, 0.5], "mask": packed}, "key", HW, None, False
    )
    assert found is not None
    assert (found.class_name, found.box_xyxy) == ("unlabelled", (40.032, 0.0, 80.0, 18.0))
    assert found.mask is not None
    expected = np.zeros(HW, bool)
    expected[:18, 40:] = True
    np.testing.assert_array_equal(decode_mask(found.mask), expected)


def test_lines_and_boxes_without_area_are_no_objects() -> None:
    for document in (
        {"_id": 1, "bounding_box": [0.5, 0.5, 0.0, 0.2]},
        {"_id": 1, "bounding_box": [0.5, 0.5]},
        {"_id": 1, "bounding_box": [0.5, 0.5, float("nan"), 0.1]},
        {"_id": 1, "points": [[(0.1, 0.1), (0.5, 0.5)]]},
        {"_id": 1, "points": []},
    ):
        assert documents.document_to_object(document, "key", HW, None, False) is None
