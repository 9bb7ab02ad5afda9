"""What PaLoRALinear and PaLoRAConv2d share: the adapters' parameters, their start, and the scale alpha/r."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import palora_kernels
from palora.layers.ray_layer import RAY_ATTRIBUTES, RayLayer
from palora_kernels.typed import shown

MOST = 2**16  # tasks, and ranks: more is a mistake


def check_settings(tasks: int, rank: int, alpha: float) -> None:
    if not isinstance(tasks, int) or isinstance(tasks, bool) or tasks < 1:
        raise ValueError(f"`tasks` should be an integer >= 1. Found {tasks!r}.")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"`rank` should be an integer >= 1. Found {rank!r}.")
    for name, value in (("tasks", tasks), ("rank", rank)):
        if value > MOST:
            raise ValueError(f"`{name}` should be at most {MOST:,}. Found {shown(value)}.")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise ValueError(f"`alpha` should be a finite number. Found {alpha!r}.")


def check_memory(layers: Iterable[nn.Module], tasks: int, rank: int) -> None:
    """That the machine could hold the adapters, before any of them is allocated."""
    weights = [layer.weight for layer in layers if isinstance(layer.weight, Tensor)]
    # W (O, K) gets A (T, O, r) and B (T, r, K); a convolution's are no smaller.
    needed = sum(tasks * rank * (len(w) + w[0].numel()) * w.element_size() for w in weights if w.device.type != "meta")
    if needed > _memory():
        raise ValueError(
            f"`tasks`={tasks} and `rank`={rank} ask for {needed / 2**30:,.0f} GiB of adapters, more than this machine "
            f"has memory ({_memory() / 2**30:,.0f} GiB). Choose smaller ones."
        )


def _memory() -> int:
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return max(host, *(torch.cuda.get_device_properties(i).total_memory for i in devices), 0)


class Adapter(RayLayer):
    """Mixin of the adapted layers: lora_A, lora_B, tasks, rank, alpha, form, and the state that holds the rays."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    rank: int
    alpha: float
    form: str

    def install(self, tasks: int, rank: int, alpha: float, form: str) -> None:
        """Add fresh adapters on the weight's device and in its dtype."""
        check_settings(tasks, rank, alpha)
        self.tasks, self.rank, self.alpha, self.form = tasks, rank, float(alpha), form
        out_side, in_side = self.factor_shapes()
        like: dict[str, Any] = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.lora_A = nn.Parameter(torch.empty(tasks, *out_side, **like))
        self.lora_B = nn.Parameter(torch.empty(tasks, *in_side, **like))
        self.rays_state = None
        self.reset_adapters()

    def factor_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of one task's out-side and in-side factor."""
        raise NotImplementedError

    def reset_adapters(self) -> None:
        """As LoRA starts: in-side Kaiming-uniform(a=sqrt 5), out-side zero, so that the layer is unchanged.

        Task by task: a (T, r, K) tensor initialised whole counts r*K as fan-in and comes out too small.
        """
        for t in range(self.tasks):
            if self.lora_B[t].numel():
                nn.init.kaiming_uniform_(self.lora_B.data[t], a=math.sqrt(5))
        nn.init.zeros_(self.lora_A)

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What the adapter adds to the layer, by name."""
        return {"lora_A": self.lora_A, "lora_B": self.lora_B}

    def factors(self) -> tuple[Tensor, Tensor]:
        """lora_A and lora_B in the weight's dtype: adapters may be kept in float32 on a base in 16 bits."""
        dtype = self.base_weight().dtype
        return self.lora_A.to(dtype), self.lora_B.to(dtype)

    def merged_weight(self, ray: Tensor) -> Tensor:
        """W_lambda, the weight's shape, for one ray (T,)."""
        return palora_kernels.merge(self.base_weight(), self.lora_A, self.lora_B, self.scaled(ray))

    def merged(self, ray: Tensor) -> nn.Module:
        with torch.no_grad():
            self.weight.copy_(self.merged_weight(ray))
        for name in self.own_parameters():
            delattr(self, name)
        for name in (*RAY_ATTRIBUTES, "rank", "alpha", "form"):
            self.__dict__.pop(name, None)
        self.__class__ = nn.Linear if isinstance(self, nn.Linear) else nn.Conv2d  # type: ignore[assignment]
        return self

    @property
    def scaling(self) -> float:
        """alpha/r of PaLoRA's Eq. 2."""
        return self.alpha / self.rank

    def scaled(self, rays: Tensor) -> Tensor:
        """What the kernels call lam: (alpha/r) * lambda."""
        return rays if self.scaling == 1.0 else rays * self.scaling

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tasks={self.tasks}, rank={self.rank}, alpha={self.alpha:g}"


def shallow_copy(module: nn.Module) -> Any:
    """A second module object over the same parameters, buffers and submodules."""
    copied = module.__class__.__new__(module.__class__)
    copied.__dict__ = {k: (v.copy() if isinstance(v, dict) else v) for k, v in module.__dict__.items()}
    return copied
