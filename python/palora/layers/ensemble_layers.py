"""Layers with m sets of weights, one a member; a ray mixes them (PaMaL, Eq. 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import palora_kernels
from palora.layers.adapter import shallow_copy
from palora.layers.conv import padded
from palora.layers.norm import SWAPS, RayNorm, swap_out
from palora.layers.ray_layer import RAY_ATTRIBUTES, RayLayer
from palora.layers.routing import route

CHANNEL_NORMS = (*SWAPS, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
TRAILING_NORMS = (nn.LayerNorm, nn.RMSNorm)


def mix(rays: Tensor, members: Tensor) -> Tensor:
    """``sum_k rays[m, k] members[k]``: (M, m) and (m, ...) -> (M, ...), added in float32 or wider, rounded once."""
    wide = torch.promote_types(members.dtype, torch.float32)
    mixed = rays.to(wide) @ members.to(wide).flatten(1)
    return mixed.view(len(rays), *members.shape[1:]).to(members.dtype)


class EnsembleLinear(RayLayer, nn.Linear):
    """``y = x (sum_k alpha_k W_k)^T + sum_k alpha_k b_k`` for the active rays alpha.

    Attributes: weight (m, O, K), bias (m, O) or None. Made by `ensemble`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (P, ..., K) -> (M*n, ..., O), ray-major."""
        rows, rays, shared, layout = route(self, x)
        bias = None if self.bias is None else mix(rays, self.bias)
        y = self.for_hooks(palora_kernels.linear_delta(rows, None, bias, self.base_weight(), rays, shared=shared))
        return y if layout is None else layout.restored(y)

    def merged(self, ray: Tensor) -> nn.Module:
        return _merged(self, ray, nn.Linear)


class EnsembleConv2d(RayLayer, nn.Conv2d):
    """A convolution with the kernel ``sum_k alpha_k W_k`` and the bias ``sum_k alpha_k b_k`` for the active rays.

    Attributes: weight (m, O, C/groups, kh, kw), bias (m, O) or None. Made by `ensemble`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (P, C, H, W) -> (M*n, O, Ho, Wo), ray-major."""
        rows, rays, shared, layout = route(self, x)
        rows, padding = padded(self, rows)
        y = palora_kernels.conv2d_delta(
            rows,
            None,
            None if self.bias is None else mix(rays, self.bias),
            self.base_weight(),
            rays,
            stride=self.stride,  # type: ignore[arg-type]
            padding=padding,
            dilation=self.dilation,  # type: ignore[arg-type]
            groups=self.groups,
            shared=shared,
        )
        y = self.for_hooks(y)
        return y if layout is None else layout.restored(y)

    def merged(self, ray: Tensor) -> nn.Module:
        return _merged(self, ray, nn.Conv2d)


def _merged(layer: RayLayer, ray: Tensor, plain: type[nn.Module]) -> nn.Module:
    for name, parameter in list(layer._parameters.items()):
        if parameter is not None:
            mixed = mix(ray[None], parameter.detach())[0]
            layer._parameters[name] = nn.Parameter(mixed, requires_grad=parameter.requires_grad)
    for name in RAY_ATTRIBUTES:
        layer.__dict__.pop(name, None)
    layer.__class__ = plain  # type: ignore[assignment]
    return layer


class EnsembleNorm(RayLayer):
    """A normalisation whose scale and shift are mixed by the ray, and whose statistics all members share.

    Attributes:
        statistics: the normalisation without scale and shift; batch statistics ray by ray.
        weight (m, ...), bias (m, ...) or None: scale and shift of the members.
    """

    bias: Tensor | None

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.trailing = isinstance(module, TRAILING_NORMS)
        self.kind = type(module)
        bare: Any = shallow_copy(module)
        bare.weight = None
        if "bias" in bare._parameters:
            bare.bias = None
        if self.kind in SWAPS:
            bare.__class__ = SWAPS[self.kind]  # `connect` gives it the state
        self.statistics = bare
        self.rays_state = None

    def forward(self, x: Tensor) -> Tensor:
        """x (M*n, C, ...), or (M*n, ..., features) for layer normalisation; ray-major."""
        rays = route(self, x).rays
        z = self.statistics(x)
        y = z.unflatten(0, (len(rays), x.shape[0] // len(rays))) * self._spread(mix(rays, self.base_weight()), z)
        if self.bias is not None:
            y = y + self._spread(mix(rays, self.bias), z)
        return y.flatten(0, 1).to(z.dtype)

    def _spread(self, mixed: Tensor, z: Tensor) -> Tensor:
        """(M, *s) -> broadcastable to (M, n, ...), s along the channels or the trailing dimensions."""
        s = mixed.shape[1:]
        ones = (1,) * (z.dim() - 1 - len(s))
        return mixed.view(len(mixed), 1, *ones, *s) if self.trailing else mixed.view(len(mixed), 1, *s, *ones)

    def merged(self, ray: Tensor) -> nn.Module:
        plain: Any = self.statistics
        if isinstance(plain, RayNorm):
            swap_out(plain)
        for name, parameter in self._parameters.items():
            if parameter is not None:
                plain._parameters[name] = nn.Parameter(mix(ray[None], parameter.detach())[0])
        return plain
