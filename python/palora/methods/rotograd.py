"""RotoGrad: each head sees the features rotated, so that gradients agree (Javaloy & Valera, 2022, Algorithm 1)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from palora.errors import PaloraError
from palora.methods.base import Options, option
from palora.methods.gradients import add_gradient
from palora.methods.point import SinglePoint
from palora_kernels.typed import Range


@dataclass(frozen=True)
class RotoGradOptions(Options):
    """The papers train the rotations at a tenth of the learning rate."""

    rotation_lr: Annotated[float, Range(0, 1000, above=True)] = option(
        0.1, "Learning rate of the rotations, relative to the model's."
    )
    rotation_size: Annotated[int, Range(1, 65_536)] = option(
        512, "Most features that are rotated; those beyond pass as they are."
    )
    burn_in: Annotated[int, Range(0, 10**9)] = option(20, "Step whose gradient norms the later ones are compared with.")


class Rotated(nn.Module):
    """A model of trunk and heads with a rotation R_t before every head: output t is head_t(R_t trunk(x)).

    R_t = exp(S_t − S_tᵀ), the identity at the start. The losses do not train it; `features` z and the `views`
    R_t z of the last pass in training are kept for :meth:`RotoGrad.backward`, which does.
    """

    original: nn.Module

    def __init__(self, model: nn.Module, tasks: int, size: int) -> None:
        super().__init__()
        self.trunk, self.heads = parts(model)
        object.__setattr__(self, "original", model)  # its parts are registered above, once
        width = min(size, head_width(self.heads[0]))
        self.skew = nn.ParameterList(torch.zeros(width, width) for _ in range(tasks))
        self.features: Tensor | None = None
        self.views: list[Tensor] = []

    def rotation(self, task: int) -> Tensor:
        """R_t, (width, width), orthogonal."""
        skew = self.skew[task]
        return torch.matrix_exp(skew - skew.T)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk(x)
        views = [rotate(features, self.rotation(t).detach()) for t in range(len(self.heads))]
        if torch.is_grad_enabled():
            self.features, self.views = features, views
        return tuple(head(view) for head, view in zip(self.heads, views, strict=True))

    def folded(self) -> nn.Module | None:
        """A copy of the original model with each R_t multiplied into its head; None if a head does not begin with a
        layer that could take it."""
        model = copy.deepcopy(self.original)
        for t, head in enumerate(parts(model)[1]):
            first = next(module for module in head.modules() if not list(module.children()))
            if not isinstance(first, (nn.Linear, nn.Conv2d)) or getattr(first, "groups", 1) != 1:
                return None
            with torch.no_grad():
                first.weight.copy_(rotate(first.weight, self.rotation(t).T))
        return model


class RotoGrad(SinglePoint):
    """Heads follow their own losses; the trunk gets Σ_t C G_t/‖G_t‖, where G_t is L_t's gradient in the features z.

    C = Σ_t α_t ‖G_t‖ and α_t ∝ ‖G_t‖/‖G_t(start)‖ equalise the norms; the rotations equalise the directions:
    R_t minimises ‖R_t v − ∂L_t/∂(R_t z)‖², where v is the mean over tasks of the G_t, brought to the norm of
    their mean. Needs a model with `trunk` and `heads`.
    """

    name = "rotograd"
    summary = "RotoGrad: rotated features and equal norms make gradients agree, one point"
    Options = RotoGradOptions

    def __init__(self, tasks: int, options: RotoGradOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.start: Tensor | None = None
        self.steps = 0

    def adapt(self, model: nn.Module) -> nn.Module:
        return Rotated(model, self.tasks, self.options.rotation_size)

    def plain(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Rotated)
        return model.folded() or model

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        assert isinstance(model, Rotated)
        rotations = list(model.skew)
        known = {id(p) for p in rotations}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        return [{"params": rest, "lr": lr}, {"params": rotations, "lr": self.options.rotation_lr * lr}]

    def backward(self, model: nn.Module, losses: Tensor, rays: Tensor) -> None:
        """Add the gradients of heads, trunk and rotations to ``.grad``; the trunk is passed once."""
        assert isinstance(model, Rotated)
        assert model.features is not None
        turned, original = [], []  # ∂L_t/∂(R_t z), and the same in z
        for t, loss in enumerate(losses[0]):
            head = [p for p in model.heads[t].parameters() if p.requires_grad]
            view, *own = torch.autograd.grad(loss, [model.views[t], *head], retain_graph=True)
            for parameter, gradient in zip(head, own, strict=True):
                add_gradient(parameter, gradient)
            turned.append(view.float())
            original.append(rotate(view.float(), model.rotation(t).detach().T))
        norms = torch.stack([gradient.norm() for gradient in original]).clamp(min=1e-15)
        self.align(model, turned, original, norms)
        model.features.backward(self.equalise(original, norms).to(model.features.dtype))
        model.features, model.views = None, []

    def equalise(self, gradients: list[Tensor], norms: Tensor) -> Tensor:
        """Σ_t C G_t/‖G_t‖; the state that it needs advances."""
        if self.start is None or self.steps == self.options.burn_in:
            self.start = norms.clone()
        self.steps += 1
        ratios = norms / self.start.to(norms)
        common = (ratios / ratios.sum() * norms).sum()
        return sum(common / norm * gradient for gradient, norm in zip(gradients, norms, strict=True))  # type: ignore[return-value]

    def align(self, model: Rotated, turned: list[Tensor], original: list[Tensor], norms: Tensor) -> None:
        """Gradients of the rotations."""
        size = (sum(original) / self.tasks).norm()  # type: ignore[union-attr]
        target = sum(size / norm * gradient for gradient, norm in zip(original, norms, strict=True)) / self.tasks
        for t, gradient in enumerate(turned):
            distance = (rotate(target, model.rotation(t)) - gradient).square()  # type: ignore[arg-type]
            (distance.sum() / len(distance)).backward()

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start, self.steps = state["start"], state["steps"]


def rotate(features: Tensor, rotation: Tensor) -> Tensor:
    """Apply `rotation` (m, m) to the first m features (or channels) of (n, d, …)."""
    m = len(rotation)
    turned = torch.einsum("ij,nj...->ni...", rotation.to(features.dtype), features[:, :m])
    return turned if m == features.shape[1] else torch.cat([turned, features[:, m:]], dim=1)


def parts(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """Trunk and heads of a model; PaloraError if it does not have them."""
    trunk, heads = getattr(model, "trunk", None), getattr(model, "heads", None)
    if not isinstance(trunk, nn.Module) or not isinstance(heads, nn.ModuleList):
        raise PaloraError(
            f"The method 'rotograd' turns the features between trunk and heads, and {type(model).__name__} has no "
            "`trunk` and `heads`: see palora.models.base.MultiTaskModel."
        )
    return trunk, heads


def head_width(head: nn.Module) -> int:
    """How many features (or channels) a head takes."""
    for module in head.modules():
        for name in ("in_features", "in_channels"):
            if isinstance(getattr(module, name, None), int):
                return int(getattr(module, name))
    raise PaloraError("The method 'rotograd' found no linear layer or convolution in the heads of the model.")
