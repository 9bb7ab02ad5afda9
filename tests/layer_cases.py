"""Comparisons used by the layer tests: stacked rays against a plain loop over merged models. Not a test itself."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import palora
from palora.layers import adapter_parameters


def randomise_adapters(model: nn.Module, std: float = 0.3) -> nn.Module:
    """Adapters start at zero, where every ray gives the same output; give them something to say."""
    for parameter in adapter_parameters(model):
        nn.init.normal_(parameter, std=std)
    return model


def outputs_of(y: Any) -> list[Tensor]:
    return [y] if isinstance(y, Tensor) else list(y)


def assert_stacked_equals_loop(model: nn.Module, x: Tensor, rays: Tensor, tolerance: float = 1e-10) -> None:
    """Outputs, gradients of every parameter and of x, and buffers: M stacked rays against a loop over single rays."""
    looped, stacked = copy.deepcopy(model), copy.deepcopy(model)
    x_loop, x_stack = x.clone().requires_grad_(), x.clone().requires_grad_()
    with palora.at(stacked, rays):
        ys = [palora.split(y, len(rays)) for y in outputs_of(stacked(x_stack))]
    weights = [torch.randn_like(y) for y in ys]
    sum((y * w).sum() for y, w in zip(ys, weights, strict=True)).backward()  # type: ignore[union-attr]
    for m, ray in enumerate(rays):
        with palora.at(looped, ray):
            singles = outputs_of(looped(x_loop))
        for single, y in zip(singles, ys, strict=True):
            torch.testing.assert_close(y[m], single, atol=tolerance, rtol=tolerance)
        sum((y * w[m]).sum() for y, w in zip(singles, weights, strict=True)).backward()  # type: ignore[union-attr]
    assert x_stack.grad is not None
    scale = max(x_loop.grad.abs().max().item(), 1.0)  # type: ignore[union-attr]
    torch.testing.assert_close(x_stack.grad, x_loop.grad, atol=tolerance * scale, rtol=tolerance)
    for (name, p), q in zip(stacked.named_parameters(), looped.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            scale = max(q.grad.abs().max().item(), 1.0)  # type: ignore[union-attr]
            torch.testing.assert_close(
                p.grad, q.grad, atol=tolerance * scale, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )
    for (name, b), c in zip(stacked.named_buffers(), looped.buffers(), strict=True):
        torch.testing.assert_close(b, c, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def assert_merged_equals_adapted(model: nn.Module, x: Tensor, rays: Tensor, tolerance: float = 1e-10) -> None:
    model = copy.deepcopy(model).eval()
    for ray in rays:
        plain = palora.merge(model, ray)
        assert not any(type(module).__module__.startswith("palora.layers") for module in plain.modules())
        with palora.at(model, ray), torch.no_grad():
            expected = outputs_of(model(x))
        with torch.no_grad():
            found = outputs_of(plain(x))
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)
