import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.grounding_dino.closed_set import CLASSES_FILE, ClassTokens
from models.grounding_dino.load import write_grounding_dino
from models.ontology import Ontology
from models.training.closed_set import ClosedSetTrainer, ask_for_all, class_tokens_from_text, collate_classes
from models.training.criterion import LossWeights
from models.training.finetune import finetune
from models.training.finetune_config import FinetuneConfig
from models.training.loop import training_loss
from models.training.prompts import Sample
from models.zoo import load_detector
from tests.tiny_training import PAIRS, small_model, small_processor, write_scenes, write_small_detector


def _sample(prompts: tuple[str, ...]) -> Sample:
    positive = np.zeros((1, len(prompts)), bool)
    positive[0, prompts.index("b")] = True
    return Sample(np.zeros((64, 64, 3), np.uint8), np.array([[8, 8, 24, 40]], np.float32), prompts, positive)


def test_columns_follow_the_classes_whatever_the_order_asked() -> None:
    batch = collate_classes([_sample(("b", "a", "c")), _sample(("c", "a", "b"))], ("a", "b", "c"))
    assert batch.input_ids.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert all(target.token_map.tolist() == [[0, 1, 0]] for target in batch.targets)
    assert batch.targets[0].boxes[0].tolist() == [0.25, 0.375, 0.25, 0.5]


def test_no_class_sees_another() -> None:
    features = ClassTokens(["A", "b "], torch.eye(2, 4))(torch.tensor([[0, 1]]))
    assert features.tokens.shape == (1, 2, 4)
    assert features.phrase_mask[0].tolist() == [[True, False], [False, True]]
    with pytest.raises(ValueError, match="1 class names do not fit 2"):
        ClassTokens(["a"], torch.eye(2))


def test_gradient_reaches_the_vectors_and_not_the_text_encoder(tmp_path: Path) -> None:
    model, processor = small_model(), small_processor(tmp_path, ("a", "b", "c"))
    trainer = ClosedSetTrainer(model, class_tokens_from_text(model, processor, ["a", "b", "c"]))
    batch = collate_classes([_sample(("a", "b", "c"))], ("a", "b", "c"))
    terms = training_loss(trainer, batch, torch.Generator().manual_seed(0), torch.device("cpu"))
    torch.stack(list(terms.values())).sum().backward()
    assert model.class_tokens.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.model.text_backbone.parameters())


def test_a_batch_weighs_its_own_positives(tmp_path: Path) -> None:
    model, processor = small_model(), small_processor(tmp_path, ("a", "b", "c"))
    trainer = ClosedSetTrainer(model, class_tokens_from_text(model, processor, ["a", "b", "c"]))
    batch = collate_classes([_sample(("a", "b", "c"))], ("a", "b", "c"))

    def terms(alpha: float | None) -> dict[str, float]:
        noise, device = torch.Generator().manual_seed(0), torch.device("cpu")
        return {
            name: term.item()
            for name, term in training_loss(trainer, replace(batch, alpha=alpha), noise, device).items()
        }

    usual, heavier = terms(None), terms(0.8)
    assert usual == terms(LossWeights().alpha)
    assert {name for name in usual if usual[name] != heavier[name]} == {name for name in usual if "focal" in name}


def test_every_image_is_asked_for_all() -> None:
    sampling = ask_for_all(PAIRS)
    assert sampling.sizes == (3,)
    assert (sampling.keep_present, sampling.nothing_present) == (1.0, 0.0)


def test_too_many_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 64 classes, not 65"):
        class_tokens_from_text(small_model(), small_processor(tmp_path), ["red"] * 65)


def test_a_trained_closed_set_loads_as_a_detector(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", 4)
    start = write_small_detector(tmp_path / "start")
    result = finetune(
        start,
        data,
        data,
        tmp_path / "out",
        FinetuneConfig(epochs=1, batch_size=2, closed_set=True),
        data.parent / "images",
    )
    assert result is not None
    assert json.loads((result.model / "groundlabel.json").read_text())["classes"] == list(PAIRS)
    image = np.full((96, 96, 3), 99, np.uint8)
    everything = load_detector(str(result.model), Ontology.from_names(PAIRS), box_threshold=0, text_threshold=0)
    one = load_detector(str(result.model), Ontology.from_names([PAIRS[1]]), box_threshold=0, text_threshold=0)
    found, alone = everything([image])[0], one([image])[0]
    scores = found.scores[found.class_ids == 2]
    assert len(alone) > 0
    np.testing.assert_allclose(np.sort(alone.scores), np.sort(scores), atol=1e-6)
    with pytest.raises(ValueError, match="closed set and cannot look for 'dog'; it knows red circle, blue square"):
        load_detector(str(result.model), Ontology.from_names("dog"))
    (result.model / CLASSES_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=CLASSES_FILE):
        load_detector(str(result.model), Ontology.from_names(PAIRS))


def test_the_vectors_are_in_no_other_file(tmp_path: Path) -> None:
    model, processor = small_model(), small_processor(tmp_path / "words")
    ClosedSetTrainer(model, class_tokens_from_text(model, processor, PAIRS))
    write_grounding_dino(tmp_path / "model", model, processor)
    assert b"class_tokens" not in (tmp_path / "model" / "model.safetensors").read_bytes()
    assert b"class_tokens" in (tmp_path / "model" / CLASSES_FILE).read_bytes()
