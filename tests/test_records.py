"""Records to rows and back, and the timings beside them."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detections import Detections, Instances
from models.masks import encode_mask
from models.ontology import Ontology
from pipeline.errors import UserError
from pipeline.records import (
    SCHEMA,
    AnnotatedImage,
    FailedImage,
    ImageTiming,
    Record,
    records_to_table,
    table_to_records,
    timings_to_table,
)

ONTOLOGY = Ontology.from_dict({"cat": ["cat", "kitty"], "dog": "dog"})


def annotated(count: int, image_hw: tuple[int, int] = (7, 11), seed: int = 0, path: str = "a.png") -> AnnotatedImage:
    random = np.random.default_rng(seed)
    prompt_ids = random.integers(0, 3, count)
    class_ids = np.array([1, 1, 2])[prompt_ids]
    boxes = random.uniform(0, 7, (count, 4)).astype(np.float32)
    found = Detections(image_hw, boxes, random.uniform(0, 1, count), class_ids, prompt_ids)
    masks = tuple(encode_mask(random.random(image_hw) > 0.5) for _ in range(count))
    instances = Instances(found, masks, random.uniform(0, 1, count).astype(np.float32))
    return AnnotatedImage.from_instances(f"{seed:016x}", path, instances, ONTOLOGY)


def same(first: Record, second: Record) -> bool:
    if isinstance(first, FailedImage) or isinstance(second, FailedImage):
        return first == second
    a, b = first.instances.detections, second.instances.detections
    arrays = [
        (a.boxes_xyxy, b.boxes_xyxy),
        (a.scores, b.scores),
        (a.class_ids, b.class_ids),
        (a.prompt_ids, b.prompt_ids),
        (first.instances.mask_scores, second.instances.mask_scores),
    ]
    texts = ("image_id", "path", "instance_ids", "class_names", "prompts", "image_hw")
    return (
        all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in arrays)
        and first.instances.masks == second.instances.masks
        and all(getattr(first, name) == getattr(second, name) for name in texts)
    )


def through_parquet(table: pa.Table) -> pa.Table:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    sink.seek(0)
    return pq.read_table(sink)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=6))
def test_round_trip(counts: list[int | None]) -> None:
    records: list[Record] = [
        FailedImage(f"{row:016x}", f"{row}\n🦊.png", "broken") if count is None else annotated(count, seed=row)
        for row, count in enumerate(counts)
    ]
    table = through_parquet(records_to_table(records, "f"))
    assert table.schema.equals(SCHEMA, check_metadata=True)
    back = list(table_to_records(table))
    assert len(back) == len(records)
    assert all(same(*pair) for pair in zip(records, back, strict=True))


def test_slices_are_read_right() -> None:
    records = [annotated(row % 3, seed=row) for row in range(7)]
    table = records_to_table(records, "f")
    back = list(table_to_records(table.slice(2, 4)))
    assert all(same(*pair) for pair in zip(records[2:6], back, strict=True))


def test_row_values() -> None:
    record = annotated(2)
    row = records_to_table([record], "print").to_pylist()[0]
    assert (row["status"], row["reason"], row["width"], row["height"]) == ("ok", None, 11, 7)
    assert row["fingerprint"] == "print"
    thing = row["objects"][0]
    assert thing["class_name"] == record.class_names[0]
    assert thing["prompt"] in ("cat", "kitty", "dog")
    assert np.allclose(thing["box_xyxy"], record.instances.detections.boxes_xyxy[0])
    assert thing["mask_counts"] == record.instances.masks[0].counts
    failed = records_to_table([FailedImage("i", "p", "why")], "print").to_pylist()[0]
    assert (failed["status"], failed["reason"], failed["width"], failed["objects"]) == ("failed", "why", None, [])


def test_same_records_same_bytes() -> None:
    tables = [records_to_table([annotated(3), FailedImage("i", "p", "why")], "f") for _ in range(2)]
    sinks = [io.BytesIO(), io.BytesIO()]
    for table, sink in zip(tables, sinks, strict=True):
        pq.write_table(table, sink)
    assert sinks[0].getvalue() == sinks[1].getvalue()


def test_instance_ids_are_distinct_and_stable() -> None:
    record = annotated(4)
    assert len(set(record.instance_ids)) == 4
    assert record.instance_ids == annotated(4).instance_ids


def test_counts_must_fit() -> None:
    record = annotated(2)
    with pytest.raises(ValueError, match="prompts must be 2 to fit the instances, not 1"):
        AnnotatedImage("i", "p", record.instances, record.instance_ids, record.class_names, ("cat",))


def test_other_schema_versions_are_refused() -> None:
    table = records_to_table([], "f").replace_schema_metadata({"groundlabel_schema": "99"})
    with pytest.raises(UserError, match="version 99"):
        list(table_to_records(table))


def test_timings() -> None:
    table = through_parquet(timings_to_table([ImageTiming("i", 0.25, 0.5, 1, 2, "host", "12", 99, 7, "ab")]))
    assert table.to_pylist()[0] == {
        "image_id": "i",
        "seconds_decode": 0.25,
        "seconds_detect": 0.5,
        "seconds_segment": 1.0,
        "seconds_encode": 2.0,
        "host": "host",
        "worker": "12",
        "file_bytes": 99,
        "file_mtime_ns": 7,
        "content": "ab",
        "image_feature": None,
    }
    assert len(timings_to_table([])) == 0
