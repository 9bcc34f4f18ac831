"""The training loop: resumed exactly, averaged, scheduled, and its files whole."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from models.training import checkpoint as checkpoint_module
from models.training.batches import Phase, StepBatches
from models.training.checkpoint import load_checkpoint, save_atomically
from models.training.denoising import DenoisingConfig
from models.training.forward import DenoisingTrainer
from models.training.loop import Loop, LoopConfig
from tests.grounding_models import RandomSource, make_model

STEPS = 5


@pytest.fixture
def make_loop(grounding_processor, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Make a loop over 64-pixel images; each starts from the same weights."""

    def build(folder="run", resume=False, steps=STEPS, evaluate=None, keep_best=None, **config):  # type: ignore[no-untyped-def]
        torch.manual_seed(0)
        trainer = DenoisingTrainer(make_model("mm-grounding-dino").requires_grad_(True), DenoisingConfig(queries=6))
        batches = StepBatches([RandomSource()], [1.0], grounding_processor.tokenizer, 2, steps, [Phase(1.0, (64,))])
        settings = LoopConfig(steps, **({"learning_rate": 1e-3, "warmup": 2, "ema": 0.5} | config))
        return Loop(
            trainer, batches, tmp_path / folder, settings, resume=resume, evaluate=evaluate, keep_best=keep_best
        )

    return build


def states(loop: Loop) -> dict[str, torch.Tensor]:
    return {**loop.trainer.state_dict(), **{f"average.{k}": v for k, v in loop.average.state_dict().items()}}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_resumed_run_goes_on_as_the_unbroken_one(make_loop, optimiser: str) -> None:
    unbroken = make_loop("unbroken", save_every=100, optimiser=optimiser)
    losses = [unbroken.train_step(unbroken._batches[step]) for step in range(STEPS)]
    assert len({loss["total"] for loss in losses}) == STEPS
    broken = make_loop("broken", optimiser=optimiser)
    for step in range(3):
        assert broken.train_step(broken._batches[step]) == losses[step]
    broken._save()
    torch.manual_seed(99)
    resumed = make_loop("broken", resume=True, optimiser=optimiser)
    assert resumed.step == 3
    for step in range(3, STEPS):
        assert resumed.train_step(resumed._batches[step]) == losses[step]
    for name, value in states(unbroken).items():
        assert torch.equal(value, states(resumed)[name]), name


def test_a_whole_run(make_loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, kept = iter([0.3, 0.2, 0.4]), []
    seen: list[nn.Module] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        seen.append(model)
        return {"ap": next(figures), "other": 1.0}

    options = {"evaluate": evaluate, "keep_best": kept.append, "evaluate_every": 2, "save_every": 2}
    loop = make_loop(**options)
    assert loop.run() == {"ap": 0.4, "other": 1.0}
    assert loop.trainer.training
    assert len(seen) == 3
    assert len(kept) == 2
    assert loop.best == 0.4
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "evaluation.csv", "log.csv"]
    assert [(row["step"], row["ap"]) for row in rows(folder / "evaluation.csv")] == [
        ("2", "0.3"),
        ("4", "0.2"),
        ("5", "0.4"),
    ]
    (last,) = rows(folder / "log.csv")
    terms = {
        f"{name}{suffix}" for name in ("focal", "l1", "giou") for suffix in ("", "_0", "_1", "_encoder", "_denoising")
    }
    assert set(last) == {"step", "minutes", "total"} | terms
    assert float(last["total"]) == pytest.approx(sum(float(last[name]) for name in terms), rel=1e-3)
    assert "step 5: ap 0.4000" in capsys.readouterr().out
    again = make_loop(resume=True, **options)
    assert again.step == STEPS
    assert again.best == 0.4
    assert again.run() == {}, "a finished run does nothing"


def test_without_resume_it_starts_anew(make_loop) -> None:
    make_loop()._save()
    assert make_loop(resume=False).step == 0
    assert make_loop("elsewhere", resume=True).step == 0


def test_the_batches_are_told_how_much_time_is_over(make_loop) -> None:
    loop = make_loop(minutes=1e-6)
    loop.run()
    assert loop._batches._share_done > 1
    unlimited = make_loop("unlimited")
    unlimited.run()
    assert unlimited._batches._share_done == 0


def test_minutes_end_a_run_with_a_checkpoint(make_loop, tmp_path: Path) -> None:
    loop = make_loop(minutes=1e-6)
    loop.run()
    assert loop.step == 1
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 1
    assert len(rows(tmp_path / "run" / "log.csv")) == 1


def test_the_average_follows_the_weights(make_loop) -> None:
    loop = make_loop(ema=0.75)
    weight, average = loop.trainer.name_content.weight, loop.average.module.name_content.weight
    loop.train_step(loop._batches[0])
    expected = weight.detach().clone()
    torch.testing.assert_close(average, expected)
    for step in (1, 2):
        loop.train_step(loop._batches[step])
        expected = 0.75 * expected + 0.25 * weight.detach()
    torch.testing.assert_close(average, expected)
    assert not torch.equal(average, weight)


def test_the_backbone_has_its_own_rate(make_loop) -> None:
    loop = make_loop(backbone_factor=0.1)
    loop.train_step(loop._batches[0])
    rest, backbone = loop._optimiser.param_groups
    assert rest["lr"] == pytest.approx(1e-3 / 2), "the first of two warm-up steps"
    assert backbone["lr"] == pytest.approx(rest["lr"] / 10)
    trained = sum(len(group["params"]) for group in (rest, backbone))
    assert trained == sum(1 for _ in loop.trainer.parameters())
    assert len(backbone["params"]) == sum(1 for name, _ in loop.trainer.named_parameters() if "conv_encoder" in name)


def test_what_is_frozen_stays(make_loop) -> None:
    loop = make_loop()
    loop.trainer.model.model.backbone.requires_grad_(False)
    frozen = Loop(loop.trainer, loop._batches, loop.output, loop.config)
    before = {name: value.clone() for name, value in frozen.trainer.model.model.backbone.named_parameters()}
    frozen.train_step(frozen._batches[0])
    for name, value in frozen.trainer.model.model.backbone.named_parameters():
        assert torch.equal(value, before[name])


def test_rates() -> None:
    config = LoopConfig(1000, warmup=100, decay_from=0.6, final_factor=0.1)
    factors = [config.rate_factor(step) for step in range(1001)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[49] == pytest.approx(0.5)
    assert factors[99:601] == [1.0] * 502
    assert factors[800] == pytest.approx(0.55)
    assert factors[1000] == pytest.approx(0.1)
    assert factors[600:] == sorted(factors[600:], reverse=True)
    assert LoopConfig(10, warmup=0).rate_factor(0) == 1.0


def test_rates_follow_the_clock_under_a_time_limit() -> None:
    config = LoopConfig(1000, warmup=0, decay_from=0.5, final_factor=0.0, minutes=10)
    assert config.rate_factor(100, 4.0) == 1.0
    assert config.rate_factor(100, 7.5) == pytest.approx(0.5)
    assert config.rate_factor(750, 1.0) == pytest.approx(0.5)
    assert config.rate_factor(100, 11.0) == 0.0


def test_a_killed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "checkpoint.pt"
    save_atomically({"step": 1}, path)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]

    def half_a_write(state: object, file) -> None:  # type: ignore[no-untyped-def]
        file.write(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as context:
        context.setattr(checkpoint_module.torch, "save", half_a_write)
        with pytest.raises(OSError, match="no space left"):
            save_atomically({"step": 2}, path)
    assert load_checkpoint(path) == {"step": 1}
    save_atomically({"step": 3}, path)
    assert load_checkpoint(path) == {"step": 3}
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nothing\.pt"):
        load_checkpoint(tmp_path / "nothing.pt")


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    import pickle

    torch.save({"evil": Path("x")}, tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path / "evil.pt")


def test_training_brings_the_loss_down(grounding_processor, tmp_path: Path) -> None:
    """Forty steps from published-style start values take at least a third of the loss away."""
    from models.training.tiny import build_tiny

    trainer = DenoisingTrainer(build_tiny(), DenoisingConfig(queries=10))
    batches = StepBatches([RandomSource()], [1.0], grounding_processor.tokenizer, 4, 40, [Phase(1.0, (64,))])
    loop = Loop(trainer, batches, tmp_path, LoopConfig(40, learning_rate=1e-3, warmup=5))
    losses = [loop.train_step(batches[step])["total"] for step in range(40)]
    assert all(math.isfinite(loss) for loss in losses)
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    assert last < first * 2 / 3, f"{first:.1f} -> {last:.1f}"
