"""Adapted layers with magnitude and direction apart: DoRA's decomposition, at every ray.

``W_lambda = g * V_lambda / ||V_lambda||`` with ``V_lambda = W + alpha/r * sum_t lambda_t A_t B_t``: each output's
weights have the length g, learnt and common to all rays, and the direction that Eq. 2 of PaLoRA gives them. Not
linear in lambda, so every ray's weight is merged first; the M merged weights then run in one stacked product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import palora_kernels
from palora.layers.adapter import Adapter
from palora.layers.conv import PaLoRAConv2d, padded
from palora.layers.linear import PaLoRALinear
from palora.layers.routing import route


class _Magnitude(Adapter):
    """Mixin: the learnt lengths, and the weights of many rays."""

    magnitude: nn.Parameter

    def install(self, tasks: int, rank: int, alpha: float, form: str) -> None:
        super().install(tasks, rank, alpha, form)
        # As long as the weights are: the layer is unchanged at first.
        self.magnitude = nn.Parameter(_lengths(self.weight.detach()[None])[0])

    def own_parameters(self) -> dict[str, nn.Parameter]:
        return {**super().own_parameters(), "magnitude": self.magnitude}

    def merged_weight(self, ray: Tensor) -> Tensor:
        """W_lambda for one ray (T,), or (M, ...) for many (M, T)."""
        rays = ray if ray.dim() == 2 else ray[None]
        V = palora_kernels.merge(self.base_weight(), self.lora_A, self.lora_B, self.scaled(rays))
        scale = self.magnitude / _lengths(V).clamp_min(torch.finfo(V.dtype).tiny)
        W = (V * scale.view(*scale.shape, *(1,) * (V.dim() - 2))).to(V.dtype)
        return W if ray.dim() == 2 else W[0]

    def _every_ray_its_own(self, rays: Tensor) -> Tensor:
        return torch.eye(len(rays), dtype=rays.dtype, device=rays.device)


def _lengths(weights: Tensor) -> Tensor:
    """(M, O, ...) -> (M, O): Euclidean length of each output's weights."""
    return weights.flatten(2).norm(dim=2)


class DoRALinear(_Magnitude, PaLoRALinear):
    """PaLoRALinear with learnt magnitudes: magnitude (O,)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (P, ..., in_features) -> (M*n, ..., out_features), ray-major."""
        rows, rays, shared, layout = route(self, x)
        weights, own = self.merged_weight(rays), self._every_ray_its_own(rays)
        y = palora_kernels.linear_delta(rows, None, self.bias, weights, own, shared=shared)
        y = self.for_hooks(y)
        return y if layout is None else layout.restored(y)


class DoRAConv2d(_Magnitude, PaLoRAConv2d):
    """PaLoRAConv2d with learnt magnitudes: magnitude (O,)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (P, C, H, W) -> (M*n, O, Ho, Wo), ray-major."""
        rows, rays, shared, layout = route(self, x)
        rows, padding = padded(self, rows)
        y = palora_kernels.conv2d_delta(
            rows,
            None,
            self.bias,
            self.merged_weight(rays),
            self._every_ray_its_own(rays),
            stride=self.stride,  # type: ignore[arg-type]
            padding=padding,
            dilation=self.dilation,  # type: ignore[arg-type]
            groups=self.groups,
            shared=shared,
        )
        y = self.for_hooks(y)
        return y if layout is None else layout.restored(y)
