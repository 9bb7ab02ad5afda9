"""Adapters in a file of their own (safetensors): small, safe to load, with what is needed to attach them again."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palora.errors import PaloraError
from palora.layers.adapter import Adapter
from palora.layers.adapting import adapt
from palora.layers.baking import computed
from palora.layers.base import base_tensors, differs, fingerprint, note_base, was_changed
from palora.layers.inside import inside, named_inside, sharded_as, synchroniser, whole
from palora.layers.refusals import UnsupportedModuleError
from palora.layers.wiring import adapted_layers
from palora.optional import need

_FORMAT = "palora-adapters-1"
_PURPOSE = "A file of adapters"


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
        MissingPackageError: safetensors is absent.
    """
    save_file = need("safetensors.torch", _PURPOSE).save_file
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
        "format": _FORMAT,
        "rank": str(first.rank),
        "alpha": repr(first.alpha),
        "form": next((s["form"] for s in settings.values() if s["form"] != "matricised"), "matricised"),
        "tasks": json.dumps(list(names) or [str(t) for t in range(first.tasks)]),
        "layers": json.dumps(settings),
        "train_base": json.dumps(not frozen),
        "base": json.dumps(fingerprint(model)),
        "trained": json.dumps(list(trained) if base else []),
    }
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file({**tensors, **trained} if base else tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


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


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.is_file():
        raise PaloraError(f"There is no adapter file {path}.")
    safetensors = need("safetensors", _PURPOSE)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise PaloraError(f"The adapter file {path} is corrupt or not a safetensors file: {error}.") from error
    if metadata.get("format") != _FORMAT:
        raise PaloraError(f"{path} is a safetensors file, but not one written by palora.save_adapters.")
    return tensors, metadata


def load_adapters(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read adapters into a model: one adapted alike, or a plain one, which is then adapted as the file says.

    What the file holds of the base (``save_adapters(..., base=True)``) is read, too. A warning is given where the base
    has other values than the one the adapters were saved on (a base in another dtype cannot be compared), and for a
    plain model under DDP, which does not synchronise the gradients of what came after it. A plain model's adapters
    have the file's dtype, and its base is frozen if that of the file was; what is frozen stays so.

    Returns:
        The same model.

    Raises:
        PaloraError: the file is missing or corrupt, or does not fit the model (named layer, expected, found).
        ValueError: the base has no values yet (meta device).
        MissingPackageError: safetensors is absent.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    settings: dict[str, dict[str, Any]] = json.loads(metadata["layers"])
    without = [name for name, tensor in base_tensors(model) if tensor.device.type == "meta"]
    if without:
        raise ValueError(
            f"`model` has no values yet: {without[0]!r} is on the meta device. Load the base first, with "
            "load_state_dict(..., assign=True), then the adapters."
        )
    plain = not adapted_layers(model)
    if plain:
        _adapt_as_saved(model, path, settings, metadata)
    layers = adapted_layers(model)
    if set(layers) != set(settings):
        odd = sorted(set(layers) ^ set(settings))[0]
        where = "the file" if odd in settings else "the model"
        raise PaloraError(f"{path} does not fit `model`: layer {odd!r} has adapters in {where} only.")
    targets: dict[str, Tensor] = {}
    for name, layer in layers.items():
        found = _settings(layer)
        if found != settings[name]:
            raise PaloraError(
                f"{path} does not fit `model` at layer {name!r}: the file has {settings[name]}, the model {found}."
            )
        _refuse_computed(name, layer)
        for own, parameter in layer.own_parameters().items():
            if plain or parameter.device.type == "meta":
                source = tensors[f"{name}.{own}" if name else own]
                values = torch.empty_like(source, device=layer.weight.device)
                parameter = layer._parameters[own] = nn.Parameter(values, parameter.requires_grad)
            targets[f"{name}.{own}" if name else own] = parameter
    targets.update(_trained(model, path, json.loads(metadata.get("trained", "[]"))))
    for name, target in targets.items():
        if target.shape != tensors[name].shape:
            raise PaloraError(
                f"{path} does not fit `model`: {name} has shape {tuple(tensors[name].shape)} in the file and "
                f"{tuple(target.shape)} in the model."
            )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(sharded_as(target, tensors[name]))
    if differs(json.loads(metadata.get("base", "{}")), fingerprint(model)):
        warnings.warn(
            f"The adapters in {path} were saved on a base with other values than this model's, and give other answers "
            "here. Load the same base, or save with palora.save_adapters(..., base=True).",
            stacklevel=2,
        )
    note_base(model)
    return model


def _adapt_as_saved(
    model: nn.Module, path: Path, settings: dict[str, dict[str, Any]], metadata: dict[str, str]
) -> None:
    missing = sorted(set(settings) - {name for name, _ in named_inside(model)})
    if missing:
        raise PaloraError(f"{path} holds adapters for layer {missing[0]!r}, which `model` does not have.")
    family = "dora" if any(s.get("family") == "dora" for s in settings.values()) else "lora"
    adapt(
        inside(model),
        json.loads(metadata["tasks"]),
        int(metadata["rank"]),
        float(metadata["alpha"]),
        metadata["form"],
        include=list(settings) if "" not in settings else None,
        family=family,
        train_base=json.loads(metadata.get("train_base", "true")),
    )
    wrapper = synchroniser(model)
    if wrapper is not None:
        warnings.warn(
            f"`model` was wrapped in {wrapper} before it had adapters, whose gradients it will not synchronise; to "
            "train them, load into the plain model and wrap that.",
            stacklevel=3,
        )


def _trained(model: nn.Module, path: Path, names: list[str]) -> dict[str, Tensor]:
    """The parameters and buffers of the base that the file holds."""
    rest = dict(base_tensors(model))
    missing = [name for name in names if name not in rest]
    if missing:
        raise PaloraError(f"{path} holds {missing[0]!r}, which `model` does not have.")
    return {name: rest[name] for name in names}
