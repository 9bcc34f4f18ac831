"""The datasheet of an export: right counts, nothing that is not known, and Croissant that its library reads."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.export import FORMATS, ExportOptions, export_run, open_labels
from pipeline.export.folder import Written
from pipeline.proof.box_sizes import BoxSizes
from pipeline.proof.datasheet import ReviewCounts, render_markdown, write_datasheet
from tests.proof_pairs import coco, write_json
from tests.review_runs import odd_records, write_run

BOX = (10.0, 10.0, 20.0, 15.0)


def sheet(folder: Path) -> tuple[dict[str, Any], str]:
    """Return an export's datasheet as values and as text."""
    return json.loads((folder / "datasheet.json").read_text("utf-8")), (folder / "DATASHEET.md").read_text("utf-8")


def test_the_sheet_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path, odd_records())
    settings = json.loads((run / "run.json").read_text())
    settings |= {
        "groundlabel": "9.9",
        "parts": {
            "labels_version": 2,
            "detector": {"name": "grounding-dino-base", "weights": "abc123", "revision": "main-7"},
            "segmenter": {"name": "tiny-sam", "weights": "def456"},
            "classes": [
                {"name": "round thing", "prompts": ["circle", "disc"], "box_threshold": 0.2, "text_threshold": None}
            ],
            "negatives": ["shadow"],
            "box_threshold": 0.35,
            "size": None,
        },
    }
    (run / "run.json").write_text(json.dumps(settings))
    (run / "summary.json").write_text(json.dumps({"drops": {"nms": 4}}))
    export_run(run, tmp_path / "out", options=ExportOptions(licence="CC BY 4.0", empty="drop"))
    values, text = sheet(tmp_path / "out")
    assert (values["images"], values["objects"], values["images_without_objects"]) == (3, 5, 0)
    assert [(row["name"], row["objects"]) for row in values["classes"]] == [("round thing", 2), ("square", 3)]
    assert values["classes"][1]["box_width_px"] | {"median": 0} == {"min": 1.0, "median": 0, "max": 53.0}
    assert values["models"] == [
        {"role": "detector", "name": "grounding-dino-base", "weights": "abc123", "revision": "main-7"},
        {"role": "segmenter", "name": "tiny-sam", "weights": "def456"},
    ]
    assert values["prompts"] == {"round thing": ["circle", "disc"]}
    assert values["options"] == {"box_threshold": 0.35, "size": None}
    assert values["thresholds_of_classes"] == {"round thing": {"box_threshold": 0.2}}
    assert values["provenance"] == {"model": 5}
    assert values["left_out"]["boxes_dropped_by_filters"] == {"nms": 4}
    assert values["left_out"]["images_without_objects"] == 1
    assert values["left_out"]["objects_with_an_empty_mask"] == 1
    assert values["failed_images"] == [{"path": "sub/broken.jpg", "reason": "truncated after 12 of 900 bytes"}]
    assert values["licence"] == "CC BY 4.0"
    for line in (
        "Exported by groundlabel 9.9 as coco",
        "3 images, 0 of them without objects; 5 objects.",
        "| segmenter | tiny-sam | not known | def456 |",
        "| round thing | circle, disc |",
        "| box threshold of round thing | 0.2 |",
        "| size | the default |",
        "Negative prompts, whose boxes were dropped: shadow.",
        "No review was counted for these labels.",
        "- `sub/broken.jpg`: truncated after 12 of 900 bytes",
    ):
        assert line in text, line


def test_what_is_not_known_is_not_written(tmp_path: Path) -> None:
    source = write_json(tmp_path / "photos" / "instances.json", coco(["a.png"], ("a",), [(0, 0, BOX, None)]))
    export_run(source, tmp_path / "out", "coco", ExportOptions(images="none"))
    values, text = sheet(tmp_path / "out")
    assert not {"models", "prompts", "options", "review", "licence", "image_licences", "sides"} & set(values)
    assert values["provenance"] == {"unknown": 1}
    assert "the source does not tell" in text
    assert "Not given." in text
    assert "How they were made" not in text


def test_licences_that_the_source_names(tmp_path: Path) -> None:
    content = coco(["a.png", "b.png", "c.png"], ("a",), [(0, 0, BOX, None)])
    content["licenses"] = [{"id": 1, "name": "CC BY 2.0"}, {"id": 2, "name": "None known"}]
    for image, licence in zip(content["images"], (1, 1, 2), strict=True):
        image["license"] = licence
    source = write_json(tmp_path / "s.json", content)
    export_run(source, tmp_path / "out", "coco", ExportOptions(images="none"))
    values, text = sheet(tmp_path / "out")
    assert values["image_licences"] == {"CC BY 2.0": 2, "None known": 1}
    assert "- 2 images: CC BY 2.0" in text


def test_sides_and_review_are_there_where_they_are_known(tmp_path: Path) -> None:
    run = write_run(tmp_path, odd_records())
    export_run(run, tmp_path / "out", assign=lambda image: "val" if "sub" in image.path else "train")
    values, text = sheet(tmp_path / "out")
    assert values["sides"] == {
        "train": {"images": 3, "objects": {"round thing": 1, "square": 2}},
        "val": {"images": 1, "objects": {"round thing": 1, "square": 1}},
    }
    assert "| val | 1 | 2 |" in text
    (tmp_path / "other").mkdir()
    written = Written(tmp_path / "other", images=1, annotations=4)
    written.provenance.update({"human": 1, "model+human": 2, "model": 1})
    write_datasheet(tmp_path / "other", open_labels(run), written, "coco", review=ReviewCounts(4, 1, 2, 1))
    values, text = sheet(tmp_path / "other")
    assert values["review"] == {"seen": 4, "accepted": 1, "changed": 2, "drawn": 1}
    assert "A person saw 4 labels, accepted 1, changed 2 and drew 1." in text
    assert "| model+human | 2 | by models, then changed by a person |" in text


def test_cells_cannot_break_the_table() -> None:
    row = {"name": "a|b\nc", "objects": 1}
    facts = {
        **{"labels_from": "x", "format": "coco", "groundlabel": "", "fingerprint": "f", "images": 1, "objects": 1},
        **{"images_without_objects": 0, "classes": [row], "provenance": {}, "left_out": {}, "failed_images": []},
    }
    assert "| a\\|b c | 1 |" in render_markdown(facts)


def test_many_failures_are_cut_short_in_the_text_only(tmp_path: Path) -> None:
    written = Written(tmp_path, failed=[(f"{row}.png", "broken") for row in range(25)])
    labels = SimpleNamespace(folder=tmp_path, settings={}, fingerprint="f")
    write_datasheet(tmp_path, labels, written, "coco")  # type: ignore[arg-type]
    values, text = sheet(tmp_path)
    assert len(values["failed_images"]) == 25
    assert "- and 5 more, in `datasheet.json`" in text


def test_the_sheet_is_the_same_each_time(tmp_path: Path) -> None:
    run = write_run(tmp_path, odd_records())
    for name in ("one", "two"):
        export_run(run, tmp_path / name)
    for name in ("DATASHEET.md", "datasheet.json", "croissant.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format_name", ["coco", "yolo", "voc", "webdataset"])
def test_croissant_is_valid_by_its_own_library(tmp_path: Path, format_name: str) -> None:
    import mlcroissant

    assert format_name in FORMATS
    run = write_run(tmp_path, odd_records())
    export_run(run, tmp_path / "out", format_name, ExportOptions(images="copy", licence="CC BY 4.0"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = mlcroissant.Dataset(jsonld=str(tmp_path / "out" / "croissant.json"))
        assert not dataset.metadata.ctx.issues.errors
        files = {node.id for node in dataset.metadata.distribution}
        assert files
        if format_name == "coco":
            rows = list(dataset.records("annotations"))
            content = json.loads((tmp_path / "out" / "annotations.json").read_text())
            assert [row["annotations/area"] for row in rows] == [one["area"] for one in content["annotations"]]
            assert files == {"annotations.json", "images/"}


def test_sizes_of_boxes() -> None:
    generator = np.random.default_rng(0)
    sizes = BoxSizes()
    sides = generator.uniform(1, 300, (9001, 2))
    for width, height in sides:
        sizes.add(width, height, (600, 800))
    for spread, exact in zip(sizes.spreads(), (*sides.T, sides.prod(1) / 480_000), strict=True):
        assert (spread.least, spread.most) == (exact.min(), exact.max())
        assert spread.median == pytest.approx(np.median(exact), rel=0.02)


def test_sizes_of_none_one_and_degenerate_boxes() -> None:
    assert all(np.isnan(spread.median) for spread in BoxSizes().spreads())
    one = BoxSizes()
    one.add(30, 20, (100, 100))
    assert [spread.median for spread in one.spreads()] == [30, 20, pytest.approx(0.06)]
    flat = BoxSizes()
    flat.add(0, 5, (100, 100))
    assert [spread.least for spread in flat.spreads()] == [0, 5, 0]
