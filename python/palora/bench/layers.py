"""Rows for the layers as a user calls them, under ``palora.at``: what routing costs is in the time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import palora
from palora.bench import authors
from palora.bench.case import Case, Maker
from palora.bench.models import randomised
from palora.bench.problem import TOLERANCE, relative


@dataclass(frozen=True)
class Stack:
    """Adapted layers one after the other: the first sees the same rows for every ray, the others rows of their own."""

    name: str
    layers: tuple[nn.Module, ...]
    size: tuple[int, ...]  # of the input of one ray
    rank: int
    M: int = 5
    T: int = 2
    form: str = "matricised"


def stacks() -> list[Stack]:
    def conv(C: int, O: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(C, O, 3, stride, padding=1)

    return [
        Stack("PaLoRALinear 256×320 → 50", (nn.Linear(320, 50),), (256, 320), 1),
        Stack("PaLoRALinear 512×256 → 256 → 256", (nn.Linear(256, 256), nn.Linear(256, 256)), (512, 256), 4, T=7),
        Stack("PaLoRALinear 64×2048 → 2048 → 2048", (nn.Linear(2048, 2048), nn.Linear(2048, 2048)), (64, 2048), 8),
        Stack("PaLoRAConv2d 8×64×32×32 → 64", (conv(64, 64),), (8, 64, 32, 32), 4),
        Stack("PaLoRAConv2d 8×64×32×32 → 64 → 64", (conv(64, 64), conv(64, 64)), (8, 64, 32, 32), 4),
        Stack("the same, loralib form", (conv(64, 64), conv(64, 64)), (8, 64, 32, 32), 4, form="loralib"),
    ]


def case(stack: Stack, device: torch.device) -> Case:
    """Forward and the gradients of all parameters; the floor is the plain layers on as many rows."""
    plain = nn.Sequential(*stack.layers).to(device)
    x = torch.randn(stack.size, device=device)
    if x.dim() == 4:
        plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    adapted = randomised(palora.adapt(copy.deepcopy(plain), stack.T, stack.rank, form=stack.form))
    looped = authors.loop_model(adapted)
    rays = palora.schedules.Annealed(stack.T, stack.M)(0.5).to(device)
    rows = torch.cat([x] * stack.M)
    grad = torch.randn_like(plain(rows))

    def ours() -> list[Tensor]:
        with palora.at(adapted, rays):
            y = adapted(x)
        return [y.detach(), *torch.autograd.grad(y, list(adapted.parameters()), grad)]

    def theirs() -> list[Tensor]:
        return _loop(looped, x, rays, grad)

    def floor() -> object:
        return torch.autograd.grad(plain(rows), list(plain.parameters()), grad)

    def error() -> float:
        wide = copy.deepcopy(looped).double()
        wanted = dict(zip(_names(wide), _loop(wide, x.double(), rays.double(), grad.double()), strict=True))
        found = dict(zip(_names(adapted), ours(), strict=True))
        return max(relative(found[name], want) for name, want in wanted.items())

    deepest = max(layer.weight[0].numel() for layer in plain if isinstance(layer, (nn.Linear, nn.Conv2d)))
    return Case(stack.name, ours, theirs, floor, error, TOLERANCE[torch.float32] * deepest**0.5)


def _names(model: nn.Module) -> list[str]:
    return ["output", *[name for name, _ in model.named_parameters()]]


def _loop(model: nn.Module, x: Tensor, rays: Tensor, grad: Tensor) -> list[Tensor]:
    outputs = []
    for ray in rays:
        authors.set_ray(model, ray)
        outputs.append(model(x))
    y = torch.cat(outputs)
    return [y.detach(), *torch.autograd.grad(y, list(model.parameters()), grad)]


def cases(device: torch.device) -> Iterator[tuple[str, Maker]]:
    for stack in stacks():
        yield "layers, forward + backward", lambda s=stack: case(s, device)  # type: ignore[misc]
