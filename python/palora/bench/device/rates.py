"""What the device reaches at best, measured: bytes of a copy and flops of a large product, per second."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from palora.bench.case import Run
from palora.bench.device.bound import Bound
from palora.bench.device.clock import Clock


@dataclass(frozen=True)
class Rates:
    """bandwidth: bytes read and written per second. products: flops per second, by dtype."""

    bandwidth: float
    products: dict[str, float]

    def shares(self, least: Bound, dtype: torch.dtype, seconds: float) -> tuple[float, float]:
        """The bound's bytes and flops over what the device could have done in this time, both <= 1 or nearly."""
        return least.bytes / seconds / self.bandwidth, least.flops / seconds / self.products[short(dtype)]


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def measured(
    device: torch.device,
    dtypes: list[torch.dtype],
    clock: Clock,
    seconds: float,
    copied: int = 2**32,
    side: int = 8192,
) -> Rates:
    """``copied`` bytes from device to device; products of ``side`` x ``side`` matrices in each dtype."""

    def copy() -> Run:
        source = torch.randint(-128, 128, (copied,), dtype=torch.int8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    def product(dtype: torch.dtype) -> Run:
        a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty(side, side, dtype=dtype, device=device)
        return lambda: torch.mm(a, b, out=out)

    def once(prepare: object) -> float:
        times, _ = clock.measure({"it": prepare}, seconds)  # type: ignore[dict-item]
        return times["it"].minimum

    products = {short(d): 2.0 * side**3 / once(lambda d=d: product(d)) for d in dtypes}  # type: ignore[misc]
    return Rates(2.0 * copied / once(copy), products)
