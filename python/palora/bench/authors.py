"""The reference implementation's way, in plain PyTorch: one pass per ray, the rays one after the other.

Linear: ``x W^T + sum_t lam_t (x B_t^T) A_t^T``. Convolution: form ``W + sum_t lam_t A_t B_t`` (viewed), then convolve.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palora.layers import PaLoRAConv2d, PaLoRALinear
from palora.layers.norm import RayNorm, swap_out
from palora.layers.wiring import disconnect


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool) -> Tensor:
    """M passes of a low-rank adapted linear layer."""
    M = lam.shape[0]
    n = x.shape[0] if shared else x.shape[0] // M
    outputs = []
    for m in range(M):
        rows = x if shared else x[m * n : (m + 1) * n]
        y = F.linear(rows, weight, bias)
        for t in range(lam.shape[1]):
            y = y + lam[m, t] * ((rows @ B[t].t()) @ A[t].t())
        outputs.append(y)
    return torch.cat(outputs)


def merged_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> Tensor:
    """M passes, each over a merged weight of its own."""
    M = lam.shape[0]
    n = x.shape[0] if shared else x.shape[0] // M
    outputs = []
    for m in range(M):
        merged = weight
        for t in range(lam.shape[1]):
            merged = merged + lam[m, t] * (A[t] @ B[t])
        outputs.append(F.linear(x if shared else x[m * n : (m + 1) * n], merged, bias))
    return torch.cat(outputs)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    shared: bool,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """M passes, each with a merged kernel of its own."""
    M = lam.shape[0]
    n = x.shape[0] if shared else x.shape[0] // M
    outputs = []
    for m in range(M):
        kernel = weight
        for t in range(lam.shape[1]):
            kernel = kernel + lam[m, t] * (A[t] @ B[t]).view(weight.shape)
        rows = x if shared else x[m * n : (m + 1) * n]
        outputs.append(F.conv2d(rows, kernel, bias, stride, padding, groups=groups))
    return torch.cat(outputs)


class LoopLinear(nn.Module):
    """A layer of the loop: it knows one ray at a time."""

    def __init__(self, layer: PaLoRALinear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_A, self.lora_B, self.scaling = layer.lora_A, layer.lora_B, layer.scaling
        self.ray: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.ray is not None
        y = F.linear(x, self.weight, self.bias)
        for t in range(len(self.ray)):
            y = y + (self.scaling * self.ray[t]) * ((x @ self.lora_B[t].t()) @ self.lora_A[t].t())
        return y


class LoopConv2d(nn.Module):
    """A layer of the loop: it merges its kernel for one ray, then convolves."""

    def __init__(self, layer: PaLoRAConv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_A, self.lora_B, self.scaling = layer.lora_A, layer.lora_B, layer.scaling
        self.options = (layer.stride, layer.padding, layer.dilation, layer.groups)
        self.ray: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.ray is not None
        kernel = self.weight
        for t in range(len(self.ray)):
            kernel = kernel + (self.scaling * self.ray[t]) * (self.lora_A[t] @ self.lora_B[t]).view(kernel.shape)
        return F.conv2d(x, kernel, self.bias, *self.options)  # type: ignore[arg-type]


def loop_model(adapted: nn.Module) -> nn.Module:
    """A copy of an adapted model with the authors' layers in place of ours, starting from the same numbers."""
    model = copy.deepcopy(adapted)
    disconnect(model)
    for module in list(model.modules()):
        if isinstance(module, RayNorm):
            swap_out(module)
        for name, child in list(module.named_children()):
            if isinstance(child, PaLoRALinear):
                setattr(module, name, LoopLinear(child))
            elif isinstance(child, PaLoRAConv2d):
                setattr(module, name, LoopConv2d(child))
    return model


def set_ray(model: nn.Module, ray: Tensor) -> None:
    for module in model.modules():
        if isinstance(module, (LoopLinear, LoopConv2d)):
            module.ray = ray
