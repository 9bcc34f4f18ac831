"""Muon: momentum whose update of a matrix is made orthogonal, with AdamW for everything else.

A gradient of a weight matrix has few strong directions; its nearest orthogonal matrix moves all of them alike. In its
first hundreds of steps from nothing the tiny detector reaches a loss in less than half of AdamW's steps. A
convolution's weight is the matrix of its output channels by all else. `torch.optim.Muon` takes matrices only, hence a
form of its own here.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", for the iteration and its three
numbers; Liu et al. 2025, "Muon is Scalable for LLM Training", for the scale by which a rate of AdamW fits here.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

OptimiserName: TypeAlias = Literal["adamw", "muon"]

_ITERATION = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_WIDE = 2
_ADAMW_RMS = 0.2
_FEWEST_ROWS = 8
_NOT_MATRICES = ("sampling_offsets",)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return about the nearest matrices with orthogonal rows or columns, the fewer of both.

    Args:
        matrices: (N, R, C) float. A matrix of zeros stays one.

    Returns:
        (N, R, C), with singular values of about .7 to 1.2.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    flat: Tensor = matrices.mT if tall else matrices
    flat = flat / (flat.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = flat.shape[2] >= _WIDE * flat.shape[1]
    result = _iterate_on_squares(flat) if wide else _iterate(flat)
    return result.mT if tall else result


def _iterate(result: Tensor) -> Tensor:
    first, second, third = _ITERATION
    for _ in range(_ITERATIONS):
        square = result @ result.mT
        polynomial = torch.baddbmm(square, square, square, beta=second, alpha=third)
        result = torch.baddbmm(result, polynomial, result, beta=first)
    return result


def _iterate_on_squares(flat: Tensor) -> Tensor:
    """Do the same for matrices much wider than high: each step is a factor from the left, made of (N, R, R) alone."""
    first, second, third = _ITERATION
    square = flat @ flat.mT
    identity = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)

    def factor_of(square: Tensor) -> Tensor:
        return torch.baddbmm(square, square, square, beta=second, alpha=third).add_(identity, alpha=first)

    factor = step = factor_of(square)
    for _ in range(_ITERATIONS - 1):
        square = step @ square @ step
        step = factor_of(square)
        factor = step @ factor
    return factor @ flat


def matrix_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that Muon trains as matrices: weights of linear layers and convolutions.

    Heads of a few outputs are none, nor the offsets of deformable attention, which start as a pattern.
    """
    names = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and len(module.weight) >= _FEWEST_ROWS
        and not name.endswith(_NOT_MATRICES)
    }
    return names.intersection(name for name, _ in model.named_parameters())


def split_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that Muon trains as matrices, and all others."""
    names = matrix_names(model)
    matrices = [parameter for name, parameter in model.named_parameters() if name in names]
    return matrices, [parameter for name, parameter in model.named_parameters() if name not in names]


class Muon(torch.optim.Optimizer):
    """Muon for the groups that say `matrices=True`, AdamW for the others; rates and weight decay are AdamW's.

    Args:
        groups: Parameter groups.
        lr: Rate of groups without one.
        weight_decay: Share of a weight that a rate of 1 would take away.
        momentum: Of matrices, by Nesterov.
        betas: AdamW's.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 1e-4,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "matrices": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make a step; parameters without a gradient stay.

        Raises:
            ValueError: A closure is given; the gradients must be there already.
        """
        if closure is not None:
            raise ValueError("Muon takes no closure; call backward before step")
        for group in self.param_groups:
            moved = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
            if group["matrices"]:
                self._move_matrices(moved, group)
            else:
                self._move_others(moved, group)

    def _move_matrices(self, moved: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        alike = defaultdict[torch.Size, list[tuple[nn.Parameter, Tensor]]](list)
        for parameter, gradient in moved:
            state = self.state[parameter]
            if not state:
                state["mean"] = torch.zeros_like(parameter)
            mean = state["mean"].lerp_(gradient, 1 - group["momentum"])
            update = gradient.lerp(mean, group["momentum"]).flatten(1)
            alike[update.shape].append((parameter, update))
        for shape, updates in alike.items():
            scale = _ADAMW_RMS * max(shape) ** 0.5
            orthogonal = orthogonalise(torch.stack([update for _, update in updates]))
            for (parameter, _), update in zip(updates, orthogonal, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * scale)

    def _move_others(self, moved: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        for parameter, _ in moved:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter, _ in moved]
        adamw(
            [parameter for parameter, _ in moved],
            [gradient for _, gradient in moved],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )
