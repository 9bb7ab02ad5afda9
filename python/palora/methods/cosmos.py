"""COSMOS: one model whose input says the preference (Ruchte & Grabocka, 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from palora.errors import PaloraError
from palora.layers import split
from palora.methods.base import Method, Options, option
from palora.rays import schedules, simplex_grid
from palora_kernels.typed import Range


@dataclass(frozen=True)
class COSMOSOptions(Options):
    """The settings of PaLoRA's and PaMaL's baselines on digits and Census; COSMOS's own are 2 and p = 1.2."""

    cosine: Annotated[float, Range(0, 1e6)] = option(
        8.0, "Weight of the cosine similarity between losses and preference."
    )
    p: Annotated[float, Range(0, 1e6)] = option(1.0, "Concentration of the Dirichlet schedules.")


class Conditioned(nn.Module):
    """A model that reads the preference beside its input: T more features of a table, T more channels of images.

    For images two transposed convolutions (no bias; 4 × 4, then 6 × 6 with stride 2 and padding 1, each with a ReLU)
    make a map of 10 × 10 from the T weights, which is enlarged to the image's size. The model's first Linear or
    Conv2d is made anew with T more inputs.

    `forward(x, rays)`: (n, …) and (M, T) → T outputs, each (M·n, …), ray-major.
    """

    def __init__(self, model: nn.Module, tasks: int) -> None:
        super().__init__()
        self.model = model
        name, first = first_layer(model)
        widened = widen(first, tasks)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, widened)
        self.maps: nn.Module | None = None
        if isinstance(widened, nn.Conv2d):
            self.maps = nn.Sequential(
                nn.ConvTranspose2d(tasks, tasks, kernel_size=4, bias=False),
                nn.ReLU(),
                nn.ConvTranspose2d(tasks, tasks, kernel_size=6, stride=2, padding=1, bias=False),
                nn.ReLU(),
            )

    def forward(self, x: Tensor, rays: Tensor) -> tuple[Tensor, ...]:
        condition = rays
        if self.maps is not None:
            condition = F.interpolate(self.maps(rays[:, :, None, None]), size=x.shape[-2:])
        n, M = len(x), len(rays)
        rows = torch.cat([torch.cat([x] * M), condition.repeat_interleave(n, dim=0).to(x.dtype)], dim=1)
        if M > 1 and self.training and any(isinstance(m, _BatchNorm) for m in self.model.modules()):
            outputs = [self.model(part) for part in rows.split(n)]  # each ray its own batch statistics
            return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
        return tuple(self.model(rows))


class COSMOS(Method):
    """Minimise λᵀL − ω cos(L, λ) at one random preference λ a step (their Eq. 8, with ω = `cosine`)."""

    name = "cosmos"
    summary = "COSMOS: the preference is an input, a front"
    capturable = True
    Options = COSMOSOptions

    def __init__(self, tasks: int, options: COSMOSOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        generator = torch.Generator().manual_seed(seed)
        self.schedule = schedules.Dirichlet(tasks, 1, self.options.p, generator)

    def adapt(self, model: nn.Module) -> nn.Module:
        return Conditioned(model, self.tasks)

    def forward(self, model: nn.Module, inputs: Tensor, rays: Tensor) -> Sequence[Tensor]:
        return split(model(inputs, rays), len(rays))

    def rays(self, tau: float) -> Tensor:
        return self.schedule(tau)

    def evaluation_rays(self, divisions: int) -> Tensor:
        return simplex_grid(self.tasks, divisions)

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        alignment = F.cosine_similarity(losses, rays.to(losses), dim=1)
        return ((rays * losses).sum(1) - self.options.cosine * alignment).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state["schedule"])


def first_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of what reads the input: the first Linear or Conv2d in the model's order."""
    for name, module in model.named_modules():
        if name and isinstance(module, (nn.Linear, nn.Conv2d)):
            return name, module
    raise PaloraError(
        f"The method 'cosmos' found no Linear or Conv2d in {type(model).__name__} to read the preference."
    )


def widen(layer: nn.Linear | nn.Conv2d, more: int) -> nn.Linear | nn.Conv2d:
    """A fresh layer with `more` more inputs, else alike."""
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features + more, layer.out_features, bias=bias, **like)
    if layer.groups != 1:
        raise PaloraError("The method 'cosmos' cannot add channels to a first convolution with groups.")
    return nn.Conv2d(
        layer.in_channels + more,
        layer.out_channels,
        kernel_size=layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        bias=bias,
        padding_mode=layer.padding_mode,  # type: ignore[arg-type]
        **like,
    )
