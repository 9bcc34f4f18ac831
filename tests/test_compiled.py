"""Steps that are compiled for shapes that repeat."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.grounding_dino import compiled as module
from models.grounding_dino.compiled import CompiledStep
from models.grounding_dino.detector import DetectorSettings
from models.grounding_dino.load import load_grounding_dino
from models.ontology import Ontology
from tests.grounding_models import picture

SIZES = ((2, 3),)
COMPILING = (pytest.mark.gpu, pytest.mark.filterwarnings("default"))
"""For what is really compiled: the compiler warns of its own old code."""


def double(sizes: tuple[tuple[int, int], ...], values: Tensor) -> tuple[Tensor, ...]:
    return (values * sizes[0][0],)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What torch was asked to compile: the shape of the first input of each graph."""
    torch.compiler.reset()
    return []


def note_shapes(graphs: list[tuple[int, ...]]) -> Callable[..., Any]:
    """Return a backend that compiles nothing and notes its inputs."""

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(tuple(inputs[0].shape))
        return graph.forward

    return backend


def test_shapes_that_come_a_third_time_are_compiled(graphs: list[tuple[int, ...]]) -> None:
    step = CompiledStep(double, "step", {"backend": note_shapes(graphs)})
    with torch.inference_mode():
        for turn in range(4):
            assert step(SIZES, torch.ones(5))[0].tolist() == [2.0] * 5
            assert len(graphs) == (turn >= 2)
            step(((3, 3),), torch.ones(turn + 10))
        for _ in range(3):
            assert step(((7, 1),), torch.ones(5))[0].tolist() == [7.0] * 5
    assert graphs == [(5,), (5,)], "sizes count as shapes do"


def test_only_some_shapes_are_compiled(graphs: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SHAPES", 2)
    step = CompiledStep(double, "step", {"backend": note_shapes(graphs)})
    with torch.inference_mode():
        for length in (4, 5, 6, 4):
            for _ in range(4):
                step(SIZES, torch.ones(length))
    assert graphs == [(4,), (5,)]


def test_what_cannot_be_compiled_runs_as_it_is(graphs: list[tuple[int, ...]], caplog: pytest.LogCaptureFixture) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(tuple(inputs[0].shape))
        raise RuntimeError("no compiler on this machine")

    step = CompiledStep(double, "step", {"backend": broken})
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert step(SIZES, torch.ones(5))[0].tolist() == [2.0] * 5
    assert graphs == [(5,)], "it is tried once"
    (note,) = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert note.startswith("the step cannot be compiled and runs as it is")
    assert "no compiler on this machine" in note


def test_out_of_memory_is_for_the_caller_to_halve(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*inputs: Any) -> tuple[Tensor, ...]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "compile", lambda step, **options: full)
    step = CompiledStep(double, "step", {})
    for _ in range(2):
        step(SIZES, torch.ones(5))
    with pytest.raises(torch.OutOfMemoryError):
        step(SIZES, torch.ones(5))


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", "fp32"), *(pytest.param("cuda", name, marks=COMPILING) for name in ("fp32", "bf16"))],
)
def test_a_compiled_detector_finds_the_same(
    grounding_folders: dict[str, Path], device: str, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU what is given to torch is not compiled, which takes minutes; on a GPU it is."""
    calls: list[int] = []
    if device == "cpu":

        def plain(step: Callable[..., Any], **options: Any) -> Callable[..., Any]:
            def run(*inputs: Any) -> Any:
                calls.append(len(inputs))
                return step(*inputs)

            return run

        monkeypatch.setattr(torch, "compile", plain)
    ontology = Ontology.from_names("red circle, blue square, car")
    settings = [DetectorSettings(0.0, 0.0, prompts_per_pass=2, precision=precision, compile=on) for on in (False, True)]
    one, two = (load_grounding_dino(grounding_folders["mm-grounding-dino"], ontology, own, device) for own in settings)
    images = [picture(60, 80), picture(60, 80, seed=1)]
    expected = one.score_passes(images)
    for turn in range(5):
        found = two.score_passes(images)
        for before, after in zip(expected, found, strict=True):
            room = 1e-5 if device == "cpu" else 0.05
            np.testing.assert_allclose(np.sort(after.scores.max(-1)), np.sort(before.scores.max(-1)), atol=room)
        if device == "cpu":
            # The second pass's text has another length; the backbone's first run only says how large its maps are.
            assert calls.count(2) == max(turn - 2, 0)
            assert calls.count(8) == 2 * max(turn - 1, 0)
    other = one([picture(61, 80)])[0], two([picture(61, 80)])[0]
    assert len(other[0]) == len(other[1])
