"""Model names: which exist, what is offered for one that does not, and what to do without a network."""

from pathlib import Path

import pytest

from models import zoo
from models.ontology import Ontology

ONTOLOGY = Ontology.from_names("red circle")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without network, with nothing in its caches."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind", "near"),
    [
        ("grounding-dino-tinny", "detector", "did you mean grounding-dino-tiny"),
        ("mm-grounding-dino", None, "mm-grounding-dino-"),
        ("sam-vit-bse", "segmenter", "sam-vit-base"),
        ("qqqq", "detector", "known are tiny, grounding-dino-tiny"),
        ("./nowhere/model", "detector", "no such file or folder"),
        ("nowhere/sam.pth", "segmenter", "no such file or folder"),
    ],
)
def test_unknown_names(name: str, kind: zoo.Kind | None, near: str) -> None:
    with pytest.raises(ValueError, match=rf"is called '{name}'.*{near}"):
        zoo.resolve(name, kind)


def test_only_the_wanted_kind_is_offered() -> None:
    with pytest.raises(ValueError, match="no segmenter is called") as error:
        zoo.resolve("tiny-sem", "segmenter")
    assert "dino" not in str(error.value)


@pytest.mark.parametrize(("name", "kind"), [("tiny-sam", "detector"), ("tiny", "segmenter"), ("sam_vit_b", "detector")])
def test_a_model_of_the_other_kind(name: str, kind: zoo.Kind) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' is a \w+, not a {kind}"):
        zoo.resolve(name, kind)


@pytest.mark.parametrize("name", [name for name, entry in zoo.ZOO.items() if entry.hub_id] + ["someone/something"])
def test_without_network_the_files_are_named(offline: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError) as error:
        zoo.resolve(name)
    message = str(error.value)
    source = zoo.ZOO[name].hub_id if name in zoo.ZOO else name
    for part in (repr(name), f"hf download {source}", "config.json", "preprocessor_config.json", "model.safetensors"):
        assert part in message


def test_a_cached_model_needs_no_network(offline: Path) -> None:
    hub_id = zoo.ZOO["grounding-dino-tiny"].hub_id
    assert hub_id is not None
    cached = offline / "hub" / f"models--{hub_id.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "snapshots" / "abc" / "model.safetensors").touch()
    assert zoo.resolve("grounding-dino-tiny") == cached / "snapshots" / "abc"


@pytest.mark.parametrize("name", [name for name, entry in zoo.ZOO.items() if entry.checkpoint])
def test_checkpoints(offline: Path, name: str) -> None:
    file_name = zoo.ZOO[name].checkpoint
    assert file_name is not None
    with pytest.raises(FileNotFoundError, match=file_name):
        zoo.resolve(name, "segmenter")
    assert not zoo.is_at_hand(name)
    path = zoo.checkpoint_folder() / file_name
    path.parent.mkdir(parents=True)
    path.touch()
    assert zoo.resolve(name, "segmenter") == path
    assert zoo.is_at_hand(name)


def test_bundled_models_are_in_the_package() -> None:
    bundled = [entry.name for entry in zoo.ZOO.values() if entry.bundled]
    assert bundled == ["tiny", "tiny-sam"]
    for name in bundled:
        assert zoo.resolve(name) == Path(zoo.__file__).parent / "bundled" / name


def test_local_paths(tmp_path: Path) -> None:
    assert zoo.resolve(str(tmp_path), "detector") == tmp_path
    with pytest.raises(ValueError, match="no model is called 'tiny-samm'"):
        zoo.is_at_hand("tiny-samm")


def test_entries_are_complete() -> None:
    for name, entry in zoo.ZOO.items():
        assert name == entry.name
        assert entry.licence
        assert entry.note
        assert entry.size_mb > 0
        assert entry.parameters_m > 0
        assert (entry.hub_id is None) or (entry.checkpoint is None)


def test_fingerprint_knows_every_byte_of_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1000))
    (tmp_path / "config.json").write_text("{}")
    before = zoo.model_fingerprint(str(tmp_path))
    assert len(before) == 64
    assert before == zoo.model_fingerprint(str(tmp_path))
    weights.write_bytes(bytes(999) + b"\x01")
    assert zoo.model_fingerprint(str(tmp_path)) != before
    weights.write_bytes(bytes(1000))
    weights.rename(tmp_path / "other.safetensors")
    assert zoo.model_fingerprint(str(tmp_path)) != before
    assert len(zoo.model_fingerprint(str(tmp_path / "other.safetensors"))) == 64


def test_no_weights_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        zoo.model_fingerprint(str(tmp_path))


def test_detectors_are_loaded_by_path(grounding_folders: dict[str, Path]) -> None:
    folder = str(grounding_folders["mm-grounding-dino"])
    detector = zoo.load_detector(folder, ONTOLOGY, size=48, device="cpu")
    assert detector.resized_hw((100, 100)) == (48, 48)
    with pytest.raises(ValueError, match="box_threshold"):
        zoo.load_detector(folder, ONTOLOGY, box_threshold=2, device="cpu")


def test_a_detector_is_no_segmenter(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no config"):
        zoo.load_detector(str(tmp_path), ONTOLOGY, device="cpu")


def test_devices() -> None:
    assert zoo.pick_device("cuda:3") == "cuda:3"
    assert zoo.pick_device("auto")
