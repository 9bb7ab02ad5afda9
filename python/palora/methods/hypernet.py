"""A network that makes the weights of another: what PHN-LS and PHN-EPO train."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from palora.errors import PaloraError


class HyperNetwork(nn.Module):
    """Preference → weights of a target model, all of them (Navon et al., 2021).

    Three linear layers with ReLU between embed the T weights of a ray in `hidden` numbers; one linear layer per
    parameter of the target makes that parameter of them: T·h + h + 2 (h² + h) + (h + 1)·P parameters for h = `hidden`
    and a target of P.

    `forward(x, rays)`: (n, …) and (M, T) → T outputs, each (M, n, …).
    """

    target: nn.Module

    def __init__(self, target: nn.Module, tasks: int, hidden: int = 100) -> None:
        super().__init__()
        if next(target.buffers(), None) is not None:
            raise PaloraError(
                f"PHN makes weights, not the running statistics that {type(target).__name__} keeps: it is for LeNet "
                "and MLP. Take another --method for this recipe."
            )
        self.embedding = nn.Sequential(
            nn.Linear(tasks, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)
        )
        shapes = {name: p.shape for name, p in target.named_parameters()}
        self.makers = nn.ModuleDict(
            {name.replace(".", "/"): nn.Linear(hidden, shape.numel()) for name, shape in shapes.items()}
        )
        # The target is structure only: no weights of its own, so not one of this module's children.
        object.__setattr__(self, "target", copy.deepcopy(target).to("meta"))

    def weights(self, rays: Tensor) -> dict[str, Tensor]:
        """(M, T) → parameter name → (M, *shape)."""
        features = self.embedding(rays)
        return {
            name: self.makers[name.replace(".", "/")](features).unflatten(1, p.shape)
            for name, p in self.target.named_parameters()
        }

    def forward(self, x: Tensor, rays: Tensor) -> tuple[Tensor, ...]:
        weights = self.weights(rays)
        outputs = [
            torch.func.functional_call(self.target, {name: w[m] for name, w in weights.items()}, (x,))
            for m in range(len(rays))
        ]
        return tuple(torch.stack(parts) for parts in zip(*outputs, strict=True))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The embedding, and what makes the parameters that the target shares; all if the target does not say."""
        shared: Any = getattr(self.target, "shared_parameters", self.target.parameters)
        ids = {id(p) for p in shared()}
        names = [name for name, p in self.target.named_parameters() if id(p) in ids]
        makers = [self.makers[name.replace(".", "/")] for name in names]
        return [p for part in (self.embedding, *makers) for p in part.parameters()]

    def generated(self, ray: Tensor) -> nn.Module:
        """The target at one ray (T,), as a plain model with weights of its own."""
        like = next(self.embedding.parameters())
        with torch.no_grad():
            weights = self.weights(ray[None].to(like))
        plain = copy.deepcopy(self.target).to_empty(device=like.device).to(like.dtype)
        plain.load_state_dict({name: w[0] for name, w in weights.items()})
        return plain
