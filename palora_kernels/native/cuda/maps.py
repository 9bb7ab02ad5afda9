"""Maps (P, C, H, W) as the kernels see them.

Flat maps are (P, H*W, C) in channels_last and (P, C, H*W) in the plain layout: pixels or channels are rows, and the
last axis is adjacent in memory. As groups of E maps for `ops.combine` they are (groups, E, rows, columns), with a
pixel's channels, or a sample's whole map, as columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palora_kernels.native.cuda import ops


@dataclass(frozen=True)
class Layout:
    """What depends on the memory format."""

    format: torch.memory_format

    @property
    def last(self) -> bool:
        return self.format == torch.channels_last

    def flat(self, t: Tensor) -> Tensor:
        """(P, C, H, W) -> (P, H*W, C) or (P, C, H*W); a view of what is contiguous in this layout."""
        t = t.contiguous(memory_format=self.format)
        return t.permute(0, 2, 3, 1).flatten(1, 2).contiguous() if self.last else t.flatten(2).contiguous()

    def new(self, like: Tensor, P: int, C: int, positions: int) -> Tensor:
        """An empty flat map."""
        return like.new_empty((P, positions, C) if self.last else (P, C, positions))

    def maps(self, flat: Tensor, size: tuple[int, int]) -> Tensor:
        """A flat map as (P, C, H, W)."""
        if self.last:
            return flat.view(flat.shape[0], *size, flat.shape[2]).permute(0, 3, 1, 2)
        return flat.view(flat.shape[0], flat.shape[1], *size)

    def channels(self, flat: Tensor, first: int, last: int) -> Tensor:
        return flat[:, :, first:last] if self.last else flat[:, first:last]

    def elements(self, flat: Tensor, groups: int, E: int) -> Tensor:
        """Flat maps of E*C channels -> (groups, E, rows, columns), a view."""
        P, a, b = flat.shape
        n = P // groups
        if self.last:
            return flat.view(groups, n * a, E, b // E).transpose(1, 2)
        return flat.view(groups, n, E, a // E * b).transpose(1, 2)

    def rays(self, flat: Tensor, rays: int) -> Tensor:
        """Flat maps of M*n samples -> (M, rows, columns), as `elements` splits them."""
        return self.elements(flat, rays, 1)[:, 0]

    def weighed(self, flat: Tensor, lam: Tensor, samples: int, over_rays: bool = False) -> Tensor:
        """s o Lam for flat maps of R channels -> flat maps of ``samples``."""
        if not self.last:
            return ops.weighed(flat, lam, samples=samples, over_rays=over_rays)
        positions, R = flat.shape[1:]
        rows = flat.reshape(-1, R, 1)
        out = ops.weighed(rows, lam, samples=samples * positions, over_rays=over_rays)
        return out.view(samples, positions, R)

    def channel_sums(self, flat: Tensor, rays: int, other: Tensor | None = None) -> Tensor:
        """Flat maps of M*n samples (times ``other``, of as many or of n samples) -> (M, C), over n and positions."""
        n = flat.shape[0] // rays
        if not self.last:
            sums = ops.plane_sums(flat, other)
            return ops.column_sums(sums.view(rays, n, flat.shape[1]))
        positions, C = flat.shape[1:]
        if other is not None:
            other = other.reshape(1 if other.shape[0] == n else rays, n * positions, C)
        return ops.column_sums(flat.view(rays, n * positions, C), other)

    def bias_gradient(self, flat: Tensor, rays: int, bias_dims: int) -> Tensor:
        """(O,) or (M, O)."""
        sums = self.channel_sums(flat, 1 if bias_dims == 1 else rays)
        return (sums[0] if bias_dims == 1 else sums).to(flat.dtype)
