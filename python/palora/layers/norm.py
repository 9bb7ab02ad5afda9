"""Batch normalisation that treats every ray as a loop over rays would.

Each ray is normalised by its own batch statistics, and the running statistics take M updates, ray after ray. Before
the expansion point one batch serves all rays: it is normalised once, and the running statistics still take M updates,
as the M passes of a loop would have made them. With a preference per sample the statistics are the whole batch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palora.layers.layouts import Layout, Where
from palora.layers.state import RayState, Slot
from palora.precision import widest
from palora_kernels.batch_norm import Running, ray_batch_norm


class RayNorm(nn.Module):
    """Mixin over torch's batch normalisations; the class is swapped in place, parameters and buffers stay."""

    rays_state: RayState
    row_layout: Where | None = None
    frozen: bool = False
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    momentum: float | None
    track_running_stats: bool

    def train(self, mode: bool = True) -> Any:
        """A frozen layer (``train_base=False``) stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor) -> Tensor:
        slot = self.rays_state.current()
        batch_statistics = self.training or self.running_mean is None
        if slot is None or not batch_statistics:
            return super().forward(x)
        if slot.index is not None and slot.groups > 1 and len(slot.index):
            return self._by_index(x, slot.index, slot.groups)
        if slot.mode != "many" or slot.count == 1:
            return super().forward(x)
        if not self._expanded(slot, x):
            return self._once_for_all_rays(x, slot.count)
        if self.row_layout is None or slot.rows is None:
            return self._ray_by_ray(x, slot.count)
        layout = Layout(self.row_layout, slot.batch)
        return layout.restored(self._ray_by_ray(layout.batch_first(x, type(self).__name__), slot.count))

    def _by_index(self, x: Tensor, index: Tensor, rays: int) -> Tensor:
        """Rows that were given to rays by hand: each ray's by themselves; a ray without rows is passed over."""
        if x.shape[0] != index.shape[0]:
            index = index.repeat_interleave(x.shape[0] // index.shape[0])
        y = torch.empty_like(x)
        for ray in range(rays):
            own = (index == ray).nonzero().flatten()
            if own.shape[0]:
                y = y.index_copy(0, own, super().forward(x[own]).to(y.dtype))
        return y

    def _ray_by_ray(self, x: Tensor, rays: int) -> Tensor:
        if isinstance(self, nn.SyncBatchNorm):  # its statistics are those of all processes
            parts = x.split([x.shape[0] // rays] * rays)
            return torch.cat([super(RayNorm, self).forward(part) for part in parts])
        norm: Any = self  # one of torch's batch normalisations
        norm._check_input_dim(x)
        running = None
        if self.running_mean is not None and self.running_var is not None and self.track_running_stats:
            running = Running(self.running_mean, self.running_var, self.num_batches_tracked)
        y = ray_batch_norm(x, norm.weight, norm.bias, running, rays, self.momentum, norm.eps)
        if self.num_batches_tracked is not None and self.track_running_stats:
            self.num_batches_tracked.add_(rays)
        return y

    @staticmethod
    def _expanded(slot: Slot, x: Tensor) -> bool:
        if slot.inside > 0:
            return True
        return slot.rows is not None and x.shape[0] == slot.rows * slot.count

    def _once_for_all_rays(self, x: Tensor, rays: int) -> Tensor:
        """One normalisation; running statistics as after ``rays`` equal updates.

        With update factors f_1 .. f_M: r_M = stat + prod(1 - f_i) (r_0 - stat).
        """
        mean, var, seen = self.running_mean, self.running_var, self.num_batches_tracked
        if not (self.training and self.track_running_stats) or mean is None or var is None or seen is None:
            return super().forward(x)
        before, seen_before = [mean.clone(), var.clone()], seen.clone()
        y = super().forward(x)
        with torch.no_grad():
            steps = torch.arange(1, rays + 1, device=x.device, dtype=widest(x.device))
            factors = 1 / (seen_before + steps) if self.momentum is None else torch.full_like(steps, self.momentum)
            if self.momentum != 0:
                remaining = (1 - factors).prod()
                for buffer, old in zip((mean, var), before, strict=True):
                    stat = old + (buffer - old) / factors[0]
                    # Through .data, as torch updates them itself: autograd holds these buffers but never reads them.
                    buffer.data.copy_(stat + remaining * (old - stat))
            seen.add_(rays - 1)
        return y


class RayBatchNorm1d(RayNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d, ray by ray."""


class RayBatchNorm2d(RayNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d, ray by ray."""


class RayBatchNorm3d(RayNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d, ray by ray."""


class RaySyncBatchNorm(RayNorm, nn.SyncBatchNorm):
    """nn.SyncBatchNorm, ray by ray; each ray's statistics are synchronised over the processes."""


SWAPS: dict[type[nn.Module], type[RayNorm]] = {
    nn.BatchNorm1d: RayBatchNorm1d,
    nn.BatchNorm2d: RayBatchNorm2d,
    nn.BatchNorm3d: RayBatchNorm3d,
    nn.SyncBatchNorm: RaySyncBatchNorm,
}


def swap_in(module: nn.Module, state: RayState, frozen: bool) -> None:
    """Make a batch normalisation ray-wise, in place."""
    module.__class__ = SWAPS[type(module)]
    module.rays_state = state  # type: ignore[assignment]
    module.frozen = frozen  # type: ignore[assignment]
    if frozen:
        module.eval()


def swap_out(module: RayNorm) -> None:
    """Back to torch's class, in place."""
    plain = {ray: base for base, ray in SWAPS.items()}[type(module)]
    module.__class__ = plain  # type: ignore[assignment]
    for name in ("rays_state", "row_layout", "frozen"):
        module.__dict__.pop(name, None)
