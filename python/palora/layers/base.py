"""The base under the adapters: whether it is the one they were made on, and whether it was trained since.

A fingerprint of some values of every parameter and buffer, so that asking costs next to nothing also for large models:
training or another start changes them all, or nearly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from palora.layers.adapter import Adapter
from palora.layers.inside import inside, named_inside, whole

_MOST = 1024  # values of a tensor that are looked at, evenly spread
_NOTE = "_palora_base"


def base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers by their names inside, without those of adapters; shared ones once."""
    seen: set[int] = set()
    for prefix, module in named_inside(model):
        own = set(module.own_parameters()) if isinstance(module, Adapter) else set()
        buffers = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
        for name, tensor in {**module._parameters, **buffers}.items():
            if tensor is not None and name not in own and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{prefix}.{name}" if prefix else name, tensor


def fingerprint(model: nn.Module) -> dict[str, str]:
    """dtype -> fingerprint of the base's values in that dtype; empty where none can be read (meta device, subclasses of
    tensors).

    By dtype, as a base that was cast cannot be compared.
    """
    found: dict[str, hashlib._Hash] = {}
    for name, tensor in base_tensors(model):
        if tensor.device.type == "meta":
            return {}
        values = whole(tensor.detach())
        if type(values) not in (Tensor, nn.Parameter):
            return {}  # fake, or of a form of its own
        if not values.is_floating_point() and not values.is_complex():
            continue  # counters
        flat = values.reshape(-1) if values.layout == torch.strided else values.to_dense().reshape(-1)
        some = flat[:: max(1, -(-flat.numel() // _MOST))].to("cpu", copy=True).contiguous()
        kind = str(values.dtype).removeprefix("torch.")
        digest = found.setdefault(kind, hashlib.sha256())
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return {kind: digest.hexdigest()[:32] for kind, digest in found.items()}


def differs(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two bases have other values; unknown, and so False, for one without values or cast to another dtype."""
    return bool(one and other) and set(one) == set(other) and one != other


def note_base(model: nn.Module) -> None:
    """Keep the fingerprint beside the model, through copies and pickles, but in no state_dict."""
    object.__setattr__(inside(model), _NOTE, fingerprint(model))


def forget_base(model: nn.Module) -> None:
    inside(model).__dict__.pop(_NOTE, None)


def was_changed(model: nn.Module) -> bool:
    """Whether values of the base that training moves, parameters not frozen or statistics, differ from those at
    `adapt`."""
    moves = any(t.requires_grad or not isinstance(t, nn.Parameter) for _, t in base_tensors(model))
    return moves and differs(getattr(inside(model), _NOTE, {}), fingerprint(model))
