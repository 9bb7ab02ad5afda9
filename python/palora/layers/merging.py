"""One preference as a plain model: no palora classes left, nothing to pay at inference."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from palora.layers import fast_paths
from palora.layers.baking import bake, computed, plain_copy
from palora.layers.base import forget_base
from palora.layers.context import _as_tensor
from palora.layers.inside import synchroniser
from palora.layers.norm import RayNorm, swap_out
from palora.layers.ray_layer import RayLayer
from palora.layers.refusals import UnsupportedModuleError
from palora.layers.ties import shared_parameters, tie_again, untie
from palora.layers.wiring import disconnect, ray_layers, replace_children


def merge(model: nn.Module, ray: Any) -> nn.Module:
    """A copy of the model with ``W_lambda = W + alpha/r * sum_t lambda_t A_t B_t`` in every adapted layer (Eq. 2).

    Args:
        model: an adapted model, wrapped or not (torch.compile, DDP, AveragedModel, fully_shard, under which every
            process has to call this); it is not changed.
        ray: (T,), the preference.

    Returns:
        A model of plain torch modules, with the state_dict keys it had before `adapt`, on the same device and in the
        same mode; weights added in float32 or wider and rounded once. Of a wrapped model: the model inside. Layers that
        share a weight (an embedding and its head) get weights of their own, with a warning, where merging makes them
        differ. What weight_norm, spectral_norm, pruning or a parametrisation put on after `adapt` computes is merged.

    Raises:
        ValueError: no adapted layers, or a ray that does not have T entries.
        UnsupportedModuleError: a layer whose weight is computed by something else.
    """
    layers = ray_layers(model)
    if not layers:
        raise ValueError(f"`model` ({type(model).__name__}) has no adapted layers to merge.")
    first = next(iter(layers.values()))
    tensor = _as_tensor(ray, first)
    if tensor.shape != (first.tasks,):
        raise ValueError(f"`ray` should have shape ({first.tasks},). Found {tuple(tensor.shape)}.")
    _refuse_unmergeable(model, layers)
    plain = plain_copy(model)
    disconnect(plain)
    forget_base(plain)
    tied = shared_parameters(plain, _depends_on_rays)
    untie(tied)
    for module in plain.modules():
        if isinstance(module, (RayLayer, RayNorm)):
            bake(module)
    merged = {layer: layer.merged(tensor) for layer in ray_layers(plain).values()}
    replace_children(plain, merged)
    for module in plain.modules():
        if isinstance(module, RayNorm):
            swap_out(module)
    fast_paths.restore(plain)
    tie_again(tied, plain)
    return plain


def _depends_on_rays(module: nn.Module) -> bool:
    """A parametrisation is asked too, as it holds the parameters of a layer."""
    return isinstance(module, (RayLayer, ParametrizationList))


def _refuse_unmergeable(model: nn.Module, layers: dict[str, RayLayer]) -> None:
    if synchroniser(model) == "FullyShardedDataParallel":
        raise UnsupportedModuleError(
            "palora.merge does not reach into FullyShardedDataParallel, whose parameters are flattened; shard with "
            "torch.distributed.fsdp.fully_shard instead."
        )
    for name, layer in layers.items():
        if computed(layer, "weight") == "something else":
            raise UnsupportedModuleError(
                f"palora.merge needs a weight that is a Parameter of layer {name!r}; something that it does not know "
                "computes it. Remove that first."
            )
