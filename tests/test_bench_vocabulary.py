"""`groundlabel bench vocabulary`: what it prints, and what it refuses."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from jobs.bench import vocabulary
from models.bench.vocabulary_cost import made_up_names, measure_costs
from models.bench.vocabulary_scores import Labeller, _differences, _found_again
from models.detections import Detections
from models.grounding_dino.load import random_from_config
from models.zoo import BUNDLED
from pipeline.errors import UserError


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    vocabulary.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(scope="module")
def config(grounding_folders) -> Path:  # type: ignore[no-untyped-def]
    """The config.json of a small Swin model."""
    folder: Path = grounding_folders["grounding-dino"]
    return folder / "config.json"


def test_costs_are_of_all_classes(config: Path) -> None:
    few, many = measure_costs([3, 85], image_hw=(64, 96), prefilter=5, config_file=config)
    assert (few.classes, few.passes, few.chunks) == (3, 1, 1)
    assert few.prefiltered is None, "a prefilter of more classes than there are is none"
    assert (many.classes, many.passes, many.chunks) == (85, 1, 3)
    assert min(many.exact, many.chunked, many.prefiltered or 0) > 0
    assert f"exact {many.exact / many.chunked:.2f} of the chunks, with the prefilter" in str(many)


def test_made_up_names() -> None:
    names = made_up_names(1203)
    assert len(set(names)) == 1203
    assert [len(name.split()) for name in names[:6]] == [1, 2, 1, 3, 2, 1]
    with pytest.raises(ValueError, match="at most 1300"):
        made_up_names(1301)


def test_the_command_prints_costs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vocabulary.run(parsed("--detector", str(config), "--classes", "2")) == 0
    assert "    2 classes:  1 passes" in capsys.readouterr().out


def test_scores_and_recall_of_the_bundled_model() -> None:
    labeller = Labeller(BUNDLED / "tiny", 2)
    report = labeller.scores()
    assert report.passes >= 1
    assert report.present.count == 3 * sum(len(set(scene.labels)) for scene in labeller._scenes)
    assert 0 <= report.present.mean <= report.present.percentile_95 <= 1
    assert report.present_only.ap50 > 0.3
    assert str(report).count("\n") == 4
    everything, one = labeller.recall(80), labeller.recall(1)
    assert everything.recall == 1.0
    assert everything.filtered.ap == everything.exact.ap > 0
    assert one.recall < 1.0
    assert one.boxes == everything.boxes > 0
    assert everything.clear == 1.0
    assert one.clear < 1.0
    assert all(0.5 < share <= 1.0 for share in labeller.agreement())
    shares = labeller.shares_left([1, 40, 80])
    assert 0 < shares[1] < shares[40] <= shares[80] == 1.0


def test_differences_by_hand() -> None:
    tables = [np.array([[0.1, 0.5]], np.float32), np.array([[0.3, 0.5]], np.float32)]
    found = _differences(tables, np.array([[True, True]]))
    assert (round(found.mean, 6), found.count) == (0.1, 2)
    assert np.isnan(_differences(tables, np.zeros((1, 2), bool)).mean)


def test_boxes_found_again_by_hand() -> None:
    def boxes(*rows: tuple[float, int]) -> Detections:
        sides = np.array([[x, 0, x + 10, 10] for x, _ in rows], np.float32).reshape(-1, 4)
        classes = np.array([class_id for _, class_id in rows], np.int64)
        return Detections((10, 99), sides, np.full(len(rows), 0.5), classes, classes)

    found = _found_again(boxes((0, 1), (30, 1), (60, 2)), boxes((2, 1), (60, 1), (90, 2)))
    assert found.tolist() == [True, False, False]
    assert _found_again(boxes((0, 1)), boxes()).tolist() == [False]
    assert _found_again(boxes(), boxes((0, 1))).tolist() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--classes", "1,x"), "--classes 1,x: give numbers"),
        (("--classes", "0"), "--classes 0: give numbers"),
        (("--prefilter", "1.5"), "--prefilter 1.5: must be a number of classes, or a recall"),
        (("--prefilter", "some"), "--prefilter some"),
        (("--n", "0"), "--n and --rounds"),
        (("--detector", "a.json", "--measure", "scores"), "random weights have no scores"),
    ],
)
def test_wrong_options(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        vocabulary.run(parsed(*words))


def test_configs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no .*a.json; give a detector's config.json"):
        random_from_config(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    with pytest.raises(ValueError, match="is of a bert; a detector is one of"):
        random_from_config(tmp_path / "b.json")


@pytest.mark.parametrize(("recall", "status"), [(0.5, 0), (0.99, 1)])
def test_the_narrowest_prefilter_that_reaches_the_recall(
    recall: float, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ladder:
        def __init__(self, *given: object) -> None: ...

        def shares_left(self, counts: tuple[int, ...]) -> dict[int, float]:
            return {count: min(count / 20, 1.0) for count in counts}

        def agreement(self) -> tuple[float, float]:
            return 0.96, 1.0

        def recall(self, kept: int) -> argparse.Namespace:
            return argparse.Namespace(recall=min(kept / 24, 0.98))

    monkeypatch.setattr("models.bench.vocabulary_scores.Labeller", Ladder)
    assert vocabulary.run(parsed("--measure", "prefilter", "--prefilter", str(recall))) == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "prefilter: none reaches a recall of 0.99"
        if status
        else "prefilter: 12 classes reach a recall of 0.5: groundlabel annotate --prefilter 12"
    )
