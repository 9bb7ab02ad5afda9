"""The widest numbers that a device has."""

from __future__ import annotations

import torch
from torch import Tensor


def widest(device: torch.device) -> torch.dtype:
    """float64; float32 on Apple's GPUs, which have nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


def with_float64(tensor: Tensor) -> Tensor:
    """A tensor on a device that has float64: its own, else the CPU."""
    return tensor if widest(tensor.device) == torch.float64 else tensor.cpu()


def wide(tensor: Tensor) -> Tensor:
    """A tensor in float64, on the CPU where its device has none."""
    return with_float64(tensor).double()
