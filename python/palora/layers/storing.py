"""Adapters in a file of their own (safetensors): small, safe to load, with what is needed to attach them again."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palora.errors import PaloraError
from palora.files import replacing
from palora.layers.adapter import Adapter, shallow_copy
from palora.layers.adapter_file import FORMAT, PURPOSE, Contents, check_tensors, contents, order_of_tasks, values
from palora.layers.adapting import adapt, swap
from palora.layers.baking import computed
from palora.layers.base import base_tensors, differs, fingerprint, note_base, was_changed
from palora.layers.inside import inside, named_inside, sharded_as, synchroniser, whole
from palora.layers.refusals import UnsupportedModuleError, adaptable, refuse_wrapped
from palora.layers.wiring import adapted_layers
from palora.optional import need


def _settings(layer: Adapter) -> dict[str, Any]:
    settings = {"tasks": layer.tasks, "rank": layer.rank, "alpha": layer.alpha, "form": layer.form}
    return {**settings, "family": "dora"} if "magnitude" in layer.own_parameters() else settings


def save_adapters(model: nn.Module, path: str | os.PathLike[str], base: bool = False) -> None:
    """Write lora_A and lora_B of every adapted layer, atomically, with rank, alpha, form and task names as metadata.

    The file is the same whoever wraps the model (torch.compile, DDP, AveragedModel, fully_shard). It remembers which
    base the adapters were on, and `load_adapters` warns on another.

    Args:
        model: an adapted model. path: a safetensors file.
        base: write what else was trained, too: every parameter that is not frozen, and the buffers. Without it a
            warning says so where the base has changed since `adapt`.

    Raises:
        ValueError: ``model`` has no adapted layers, or adapters without values (meta device).
        UnsupportedModuleError: an adapter that a parametrisation or the like computes.
        UnwritableError: the file cannot be written; what was there before is still there.
        MissingPackageError: safetensors is absent.
    """
    save_file = need("safetensors.torch", PURPOSE).save_file
    layers = adapted_layers(model)
    if not layers:
        raise ValueError(f"`model` ({type(model).__name__}) has no adapted layers to save.")
    tensors, settings = {}, {}
    names: tuple[str, ...] = ()
    for name, layer in layers.items():
        settings[name] = _settings(layer)
        _refuse_computed(name, layer)
        for own, parameter in layer.own_parameters().items():
            tensors[f"{name}.{own}" if name else own] = _stored(parameter)
        if layer.rays_state is not None:
            names = layer.rays_state.task_names
    rest = dict(base_tensors(model))
    trained = {name: _stored(t) for name, t in rest.items() if t.requires_grad or not isinstance(t, nn.Parameter)}
    if not base and was_changed(model):
        warnings.warn(
            "palora.save_adapters writes the adapters alone, and the base under them has changed since palora.adapt: "
            "on another base they give other answers. Pass base=True to write what was trained with them.",
            stacklevel=2,
        )
    first = next(iter(layers.values()))
    frozen = not any(isinstance(t, nn.Parameter) and t.requires_grad for t in rest.values())
    metadata = {
        "format": FORMAT,
        "rank": str(first.rank),
        "alpha": repr(first.alpha),
        "form": next((s["form"] for s in settings.values() if s["form"] != "matricised"), "matricised"),
        "tasks": json.dumps(list(names) or [str(t) for t in range(first.tasks)]),
        "layers": json.dumps(settings),
        "train_base": json.dumps(not frozen),
        "base": json.dumps(fingerprint(model)),
        "trained": json.dumps(list(trained) if base else []),
    }
    with replacing(path) as new:
        save_file({**tensors, **trained} if base else tensors, new, metadata=metadata)


def _stored(tensor: Tensor) -> Tensor:
    if tensor.device.type == "meta":
        raise ValueError("`model` is on the meta device and holds no values to save.")
    return whole(tensor.detach()).to("cpu", copy=True).contiguous()


def _refuse_computed(name: str, layer: Adapter) -> None:
    for own in layer.own_parameters():
        by = computed(layer, own)
        if by is not None:
            raise UnsupportedModuleError(
                f"{own} of layer {name!r} is computed by {by}, not a Parameter that can be saved or loaded; remove "
                "that first."
            )


def load_adapters(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read adapters into a model: one adapted alike, or a plain one, which is then adapted as the file says.

    What the file holds of the base (``save_adapters(..., base=True)``) is read, too. A warning is given where the base
    has other values than the one the adapters were saved on (a base in another dtype cannot be compared), and for a
    plain model under DDP, which does not synchronise the gradients of what came after it. A plain model's adapters
    have the file's dtype, and its base is frozen if that of the file was; what is frozen stays so.

    The file is checked whole before the model is touched. Tasks that have names in both are matched by them, whatever
    their order.

    Returns:
        The same model.

    Raises:
        PaloraError: the file is missing or corrupt, or does not fit the model (named layer, expected, found); the model
            is then as it was.
        ValueError: the base has no values yet (meta device).
        MissingPackageError: safetensors is absent.
    """
    path = Path(path)
    found = contents(path)
    rest = dict(base_tensors(model))
    without = [name for name, tensor in rest.items() if tensor.device.type == "meta"]
    if without:
        raise ValueError(
            f"`model` has no values yet: {without[0]!r} is on the meta device. Load the base first, with "
            "load_state_dict(..., assign=True), then the adapters."
        )
    plain = not adapted_layers(model)
    if plain:
        refuse_wrapped(inside(model))
    layers = _as_they_would_be(model, path, found) if plain else adapted_layers(model)
    _check_layers(path, found, layers)
    unknown = [name for name in found.trained if name not in rest]
    if unknown:
        raise PaloraError(f"{path} holds {unknown[0]!r}, which `model` does not have.")
    base = {name: rest[name] for name in found.trained}
    shapes = {_key(n, own): tuple(p.shape) for n, layer in layers.items() for own, p in layer.own_parameters().items()}
    check_tensors(path, found, shapes, base)
    states = {id(layer.rays_state): layer.rays_state for layer in layers.values() if layer.rays_state is not None}
    orders = [order_of_tasks(path, found.tasks, state.task_names) for state in states.values()]
    tensors = values(path, found, base)
    if orders and orders[0] is not None:
        for name in shapes:
            if not name.endswith("magnitude"):
                tensors[name] = tensors[name][orders[0]]
    if plain:
        _adapt_as_saved(model, found)
        layers = adapted_layers(model)
    targets: dict[str, Tensor] = dict(base)
    for name, layer in layers.items():
        for own, parameter in layer.own_parameters().items():
            if plain or parameter.device.type == "meta":
                source = torch.empty_like(tensors[_key(name, own)], device=layer.weight.device)
                parameter = layer._parameters[own] = nn.Parameter(source, parameter.requires_grad)
            targets[_key(name, own)] = parameter
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(sharded_as(target, tensors[name]))
    if differs(found.base, fingerprint(model)):
        warnings.warn(
            f"The adapters in {path} were saved on a base with other values than this model's, and give other answers "
            "here. Load the same base, or save with palora.save_adapters(..., base=True).",
            stacklevel=2,
        )
    note_base(model)
    return model


def _key(layer: str, own: str) -> str:
    return f"{layer}.{own}" if layer else own


def _check_layers(path: Path, found: Contents, layers: Mapping[str, Adapter]) -> None:
    if set(layers) != set(found.settings):
        odd = sorted(set(layers) ^ set(found.settings))[0]
        where = "the file" if odd in found.settings else "the model"
        raise PaloraError(f"{path} does not fit `model`: layer {odd!r} has adapters in {where} only.")
    for name, layer in layers.items():
        here = _settings(layer)
        if here != found.settings[name]:
            raise PaloraError(
                f"{path} does not fit `model` at layer {name!r}: the file has {found.settings[name]}, the model {here}."
            )
        _refuse_computed(name, layer)


def _family(found: Contents) -> str:
    return "dora" if any(s.get("family") == "dora" for s in found.settings.values()) else "lora"


def _as_they_would_be(model: nn.Module, path: Path, found: Contents) -> dict[str, Any]:
    """The layers of a plain model adapted as the file says, as copies without values: the model stays as it is."""
    modules = dict(named_inside(model))
    layers = {}
    for name in found.settings:
        module = modules.get(name)
        if module is None or not adaptable(module):
            raise PaloraError(f"{path} holds adapters for layer {name!r}, which `model` does not have.")
        copied = shallow_copy(module)
        for own, parameter in copied._parameters.items():
            if parameter is not None:
                copied._parameters[own] = nn.Parameter(torch.empty_like(parameter, device="meta"), False)
        try:
            swap(copied, len(found.tasks), found.rank, found.alpha, found.form, _family(found))
        except ValueError as error:
            raise PaloraError(f"{path} does not fit `model` at layer {name!r}: {error}") from error
        layers[name] = copied
    return layers


def _adapt_as_saved(model: nn.Module, found: Contents) -> None:
    adapt(
        inside(model),
        found.tasks,
        found.rank,
        found.alpha,
        found.form,
        include=list(found.settings) if "" not in found.settings else None,
        family=_family(found),
        train_base=found.train_base,
    )
    wrapper = synchroniser(model)
    if wrapper is not None:
        warnings.warn(
            f"`model` was wrapped in {wrapper} before it had adapters, whose gradients it will not synchronise; to "
            "train them, load into the plain model and wrap that.",
            stacklevel=3,
        )
