"""Near-duplicates and the most different images, as fields and saved views of the App's dataset."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.image_features import ImageVectors
from pipeline.review import schema
from pipeline.review.connection import connected_fiftyone
from pipeline.review.likeness import MOST_DIFFERENT, write_likeness
from pipeline.review.views import DESCRIPTIONS, save_views
from tests.review_runs import needs_mongod

pytestmark = [
    needs_mongod,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A dataset of images 0 to 5, of which nobody is alike yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        with connected_fiftyone() as fiftyone:
            dataset = fiftyone.Dataset("likeness")
            schema.declare_fields(dataset)
            for number in range(6):
                dataset.add_sample(fiftyone.Sample(f"/photos/{number}.png", image_id=str(number)))
            save_views(dataset)
            yield dataset


def directions(degrees: dict[str, float]) -> ImageVectors:
    turned = np.deg2rad(np.array(list(degrees.values()), np.float32))
    return ImageVectors(tuple(degrees), np.stack([np.cos(turned), np.sin(turned)], axis=1))


def test_groups_and_ranks_become_views(dataset: Any) -> None:
    write_likeness(dataset, directions({"0": 0, "1": 100, "2": 1.5, "3": 101.5, "4": 103, "5": 200, "no sample": 50}))
    near = dataset.load_saved_view("Near duplicates")
    assert near.values("image_id") == ["1", "3", "4", "0", "2"]  # the group of three first
    assert near.values("duplicate_group") == [1, 1, 1, 2, 2]
    different = dataset.load_saved_view("Most different")
    ranks = different.values("difference_rank")
    assert ranks == sorted(ranks)
    assert "5" in different.values("image_id")[:3]
    assert MOST_DIFFERENT > len(dataset) == len(different)


def test_what_was_alike_once_does_not_stay_so(dataset: Any) -> None:
    write_likeness(dataset, directions({"0": 0, "1": 90, "2": 180}))
    assert len(dataset.load_saved_view("Near duplicates")) == 0
    write_likeness(dataset, ImageVectors((), np.zeros((0, 0), np.float32)))
    assert len(dataset.load_saved_view("Most different")) == 0


def test_both_views_say_why(dataset: Any) -> None:
    for name in ("Near duplicates", "Most different"):
        assert dataset.get_saved_view_info(name)["description"] == DESCRIPTIONS[name]
