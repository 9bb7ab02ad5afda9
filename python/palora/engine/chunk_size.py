"""How many rays fit into one pass: measured on one ray, not guessed from the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palora.engine.chunking import rewound

AUTO = "auto"
ALL = "all"

# Of the free memory, what activations may take: the rest is for gradients in flight and other programs.
_SHARE = 0.4
_LARGEST_SWEEP = 128


@dataclass(frozen=True)
class ChunkSizes:
    """The most rays in one pass, in training and in a sweep without gradients; None: no limit."""

    train: int | None
    sweep: int | None


def fixed(ray_chunk: int | str | None) -> ChunkSizes | None:
    """The sizes where the setting says so itself: a number, or all rays; None for "auto"."""
    if ray_chunk == AUTO:
        return None
    limit = ray_chunk if isinstance(ray_chunk, int) else None
    return ChunkSizes(limit, limit)


def estimate(model: nn.Module, losses_at: Callable[[Tensor], Tensor], rays: Tensor, device: torch.device) -> ChunkSizes:
    """Sizes for a model on this batch: the memory that is free, divided by what one ray keeps for its backward.

    ``losses_at``: rays (m, T) -> losses (m, T), with their graph. It is called once with one ray; buffers and random
    generators are put back.
    """
    per_ray = kept_bytes(model, losses_at, rays[:1])
    fit = int(_SHARE * available_memory(device)) // max(per_ray, 1)
    # Without gradients a pass holds a few layers' outputs at a time, surely less than all of them.
    return ChunkSizes(max(1, fit) if fit < len(rays) else None, min(max(1, fit), _LARGEST_SWEEP))


def kept_bytes(model: nn.Module, losses_at: Callable[[Tensor], Tensor], ray: Tensor) -> int:
    """Bytes that the graph of one ray keeps alive for its backward, the parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    held = []  # so that no storage is freed and its address used again while we count

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with rewound(model), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses_at(ray)
    return sum(kept.values())


def available_memory(device: torch.device) -> int:
    """Free bytes on the device; on a CPU, what the system can give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30  # a system that does not tell: assume little
