"""Where training samples come from: COCO files and scenes, with the truth kept right."""

from pathlib import Path

import numpy as np
import pytest

from models.training.prompts import PromptSampling, Sample
from models.training.scenes import TRAINED_PAIRS, Scene, SceneConfig
from models.training.sources import CocoSource, SceneSource, to_unit
from tests.turned_coco import write_coco

EVERYTHING = PromptSampling((4,), (1.0,), nothing_present=0.0, keep_present=1.0)


def source(folder: Path, **options: object) -> CocoSource:
    options = {"sampling": EVERYTHING, "mosaic_share": 0.0} | options
    return CocoSource(write_coco(folder), folder, **options)  # type: ignore[arg-type]


def find(image: np.ndarray) -> list[float]:
    rows, columns = np.nonzero((image[..., 0] > 140) & (image[..., 1] < 90))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_images_are_upright_and_crowds_left_out(tmp_path: Path) -> None:
    coco = source(tmp_path)
    assert len(coco) == 2
    assert coco.names == ("red thing", "ghost")
    assert coco.aspect == 1.5
    for index in range(2):
        labelled = coco.labelled(index)
        assert labelled.image.shape == (60, 90, 3)
        assert labelled.names == ("red thing",)
        assert labelled.boxes_xyxy.tolist() == [[20, 10, 50, 40]]
        assert find(labelled.image) == [20, 10, 50, 40]


def test_large_images_are_kept_small(tmp_path: Path) -> None:
    labelled = source(tmp_path, max_side=45).labelled(0)
    assert labelled.image.shape == (30, 45, 3)
    np.testing.assert_allclose(labelled.boxes_xyxy, [[10, 5, 25, 20]])


@pytest.mark.parametrize("mosaic_share", [0.0, 1.0])
def test_samples_are_true(tmp_path: Path, mosaic_share: float) -> None:
    coco = source(tmp_path, mosaic_share=mosaic_share, vertical_flip=True, quarter_turns=True)
    for seed in range(12):
        sample = coco.draw(np.random.default_rng(seed), (80, 120))
        assert sample.image.shape == (80, 120, 3)
        assert sorted(sample.prompts) in (["ghost", "red thing"], ["ghost"], ["red thing"])
        assert sample.positive.shape == (len(sample.boxes_xyxy), len(sample.prompts))
        if len(sample.boxes_xyxy) == 1 and mosaic_share == 0:
            np.testing.assert_allclose(sample.boxes_xyxy[0], find(sample.image), atol=2.5)


def test_square_batches_of_wide_images(tmp_path: Path) -> None:
    coco = source(tmp_path, aspect=1.0, zoom=(0.5, 0.8), quarter_turns=True)
    assert coco.aspect == 1.0
    found = 0
    for seed in range(12):
        sample = coco.draw(np.random.default_rng(seed), (80, 80))
        assert sample.image.shape == (80, 80, 3)
        if len(sample.boxes_xyxy) == 1:
            np.testing.assert_allclose(sample.boxes_xyxy[0], find(sample.image), atol=2.5)
            found += 1
    assert found > 3


def test_only_quarter_turns_stand_images_on_end(tmp_path: Path) -> None:
    """Drawn whole, the thing of 30 × 30 in an image of 90 × 60 is as large on end, and its image leaves grey beside."""

    def upright(quarter_turns: bool) -> int:
        coco = source(tmp_path, quarter_turns=quarter_turns, zoom=(1.0, 1.0), colour=0.0)
        drawn = [coco.draw(np.random.default_rng(seed), (60, 90)).image for seed in range(30)]
        return sum(bool((image[:, 0] == 114).all() or (image[:, -1] == 114).all()) for image in drawn)

    assert upright(False) == 0
    assert 8 <= upright(True) <= 22


def test_colours_change_as_much_as_asked(tmp_path: Path) -> None:
    def spread(colour: float) -> float:
        coco = source(tmp_path, colour=colour, zoom=(1.0, 1.0))
        return float(np.std([coco.draw(np.random.default_rng(seed), (60, 90)).image.mean() for seed in range(20)]))

    assert spread(0.0) < 0.5
    assert spread(0.4) > 1.5 * spread(0.1) > 1


def test_the_same_chance_gives_the_same_sample(tmp_path: Path) -> None:
    coco = source(tmp_path, mosaic_share=0.5)
    one, two = (coco.draw(np.random.default_rng(4), (60, 90)) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.boxes_xyxy, two.boxes_xyxy)
    assert one.prompts == two.prompts


def test_a_further_vocabulary_gives_negatives(tmp_path: Path) -> None:
    coco = source(tmp_path, vocabulary=("red thing", "blue thing"))
    assert coco.vocabulary == ("red thing", "ghost", "blue thing")
    prompts = {text for seed in range(8) for text in coco.draw(np.random.default_rng(seed), (60, 90)).prompts}
    assert "blue thing" in prompts


def test_an_image_without_objects(tmp_path: Path) -> None:
    coco = CocoSource(write_coco(tmp_path, annotations=[]), tmp_path, mosaic_share=0.5)
    sample = coco.draw(np.random.default_rng(0), (60, 90))
    assert sample.boxes_xyxy.shape == (0, 4)
    assert sample.prompts


def test_no_image(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"instances\.json holds no image"):
        CocoSource(write_coco(tmp_path, annotations=[], images=[]), tmp_path)


CONFIG = SceneConfig(size=96, max_objects=6)


def scenes_and_samples(referring_share: float, count: int) -> list[tuple[Scene, Sample]]:
    scenes = SceneSource(CONFIG, TRAINED_PAIRS, referring_share=referring_share)
    pairs = []
    for seed in range(count):
        scene = scenes._scene(np.random.default_rng(seed))
        pairs.append((scene, scenes.draw(np.random.default_rng(seed), (96, 96))))
    return pairs


def is_mirrored(scene: Scene, sample: Sample) -> bool:
    upright, mirrored = (
        np.abs(image.astype(int) - sample.image).mean() for image in (scene.image, scene.image[:, ::-1])
    )
    assert min(upright, mirrored) < 1
    return bool(mirrored < upright)


def test_scenes_asked_for_names() -> None:
    mirrored = []
    for scene, sample in scenes_and_samples(0.0, 8):
        mirrored.append(is_mirrored(scene, sample))
        for box, row in zip(sample.boxes_xyxy, sample.positive, strict=True):
            name = sample.prompts[int(row.argmax())]
            true_boxes = scene.boxes_xyxy[[label == name for label in scene.labels]]
            if mirrored[-1]:
                true_boxes = np.stack(
                    [96 - true_boxes[:, 2], true_boxes[:, 1], 96 - true_boxes[:, 0], true_boxes[:, 3]], 1
                )
            assert np.abs(true_boxes - box).max(1).min() < 1e-3
    assert len(set(mirrored)) == 2


def test_scenes_asked_for_expressions_mirror_left_and_right() -> None:
    seen = 0
    for scene, sample in scenes_and_samples(1.0, 24):
        texts = {expression.text: expression.object_index for expression in scene.expressions}
        sided = {text for text in texts if {"left", "right", "leftmost", "rightmost"} & set(text.split())}
        if not sided:
            continue
        mirrored = is_mirrored(scene, sample)
        for text in sided:
            swap = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
            asked = " ".join(swap.get(word, word) for word in text.split()) if mirrored else text
            column = sample.prompts.index(asked)
            box = scene.boxes_xyxy[texts[text]]
            expected = [96 - box[2], box[1], 96 - box[0], box[3]] if mirrored else box
            row = sample.boxes_xyxy[sample.positive[:, column]]
            np.testing.assert_allclose(row, [expected], atol=1e-3)
            seen += mirrored
    assert seen >= 2


def test_untrue_expressions_name_nothing_in_the_scene() -> None:
    for scene, sample in scenes_and_samples(1.0, 12):
        if not scene.expressions:
            continue
        false = [text for text, named in zip(sample.prompts, sample.positive.any(0), strict=True) if not named]
        for text in false:
            head = " ".join(text.removeprefix("the ").split()[:2])
            assert head not in scene.labels


def test_pixels_are_normalised_as_the_processor_does(grounding_processor) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    theirs = grounding_processor.image_processor(images=image, do_resize=False, do_pad=False, return_tensors="np")
    unit = to_unit(image)
    assert unit.shape == (3, 20, 30)
    np.testing.assert_allclose(unit, np.asarray(theirs["pixel_values"])[0], atol=1e-5)
