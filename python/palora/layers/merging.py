"""One preference as a plain model: no palora classes left, nothing to pay at inference."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from palora.layers import fast_paths
from palora.layers.context import _as_tensor
from palora.layers.norm import RayNorm, swap_out
from palora.layers.wiring import disconnect, ray_layers, replace_children


def merge(model: nn.Module, ray: Any) -> nn.Module:
    """A copy of the model with ``W_lambda = W + alpha/r * sum_t lambda_t A_t B_t`` in every adapted layer (Eq. 2).

    Args:
        model: an adapted model; it is not changed.
        ray: (T,), the preference.

    Returns:
        A model of plain torch modules, with the state_dict keys it had before `adapt`, on the same device and in the
        same mode; weights added in float32 or wider and rounded once.

    Raises:
        ValueError: no adapted layers, or a ray that does not have T entries.
    """
    layers = ray_layers(model)
    if not layers:
        raise ValueError(f"`model` ({type(model).__name__}) has no adapted layers to merge.")
    first = next(iter(layers.values()))
    tensor = _as_tensor(ray, first)
    if tensor.shape != (first.tasks,):
        raise ValueError(f"`ray` should have shape ({first.tasks},). Found {tuple(tensor.shape)}.")
    plain = copy.deepcopy(model)
    disconnect(plain)
    merged = {layer: layer.merged(tensor) for layer in ray_layers(plain).values()}
    replace_children(plain, merged)
    for module in plain.modules():
        if isinstance(module, RayNorm):
            swap_out(module)
    fast_paths.restore(plain)
    return plain
