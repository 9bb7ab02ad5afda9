"""Adapters in a file of their own (safetensors): small, safe to load, with what is needed to attach them again."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from palora.errors import PaloraError
from palora.layers.adapter import Adapter
from palora.layers.adapting import adapt
from palora.layers.wiring import adapted_layers
from palora.optional import need

_FORMAT = "palora-adapters-1"
_PURPOSE = "A file of adapters"


def _settings(layer: Adapter) -> dict[str, Any]:
    settings = {"tasks": layer.tasks, "rank": layer.rank, "alpha": layer.alpha, "form": layer.form}
    return {**settings, "family": "dora"} if "magnitude" in layer.own_parameters() else settings


def save_adapters(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write lora_A and lora_B of every adapted layer, atomically, with rank, alpha, form and task names as metadata.

    Raises:
        ValueError: ``model`` has no adapted layers.
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
        for own, parameter in layer.own_parameters().items():
            tensors[f"{name}.{own}" if name else own] = parameter.detach().cpu().contiguous()
        if layer.rays_state is not None:
            names = layer.rays_state.task_names
    first = next(iter(layers.values()))
    metadata = {
        "format": _FORMAT,
        "rank": str(first.rank),
        "alpha": repr(first.alpha),
        "form": next((s["form"] for s in settings.values() if s["form"] != "matricised"), "matricised"),
        "tasks": json.dumps(list(names) or [str(t) for t in range(first.tasks)]),
        "layers": json.dumps(settings),
    }
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


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

    Returns:
        The same model.

    Raises:
        PaloraError: the file is missing or corrupt, or does not fit the model (named layer, expected, found).
        MissingPackageError: safetensors is absent.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    settings: dict[str, dict[str, Any]] = json.loads(metadata["layers"])
    names = json.loads(metadata["tasks"])
    if not adapted_layers(model):
        present = {name for name, _ in model.named_modules()}
        missing = sorted(set(settings) - present)
        if missing:
            raise PaloraError(f"{path} holds adapters for layer {missing[0]!r}, which `model` does not have.")
        rank, alpha, form = int(metadata["rank"]), float(metadata["alpha"]), metadata["form"]
        family = "dora" if any(s.get("family") == "dora" for s in settings.values()) else "lora"
        include = list(settings) if "" not in settings else None
        adapt(model, names, rank, alpha, form, include=include, family=family)
    layers = adapted_layers(model)
    if set(layers) != set(settings):
        odd = sorted(set(layers) ^ set(settings))[0]
        where = "the file" if odd in settings else "the model"
        raise PaloraError(f"{path} does not fit `model`: layer {odd!r} has adapters in {where} only.")
    for name, layer in layers.items():
        found = _settings(layer)
        if found != settings[name]:
            raise PaloraError(
                f"{path} does not fit `model` at layer {name!r}: the file has {settings[name]}, the model {found}."
            )
    with torch.no_grad():
        for name, layer in layers.items():
            prefix = f"{name}." if name else ""
            for factor, target in layer.own_parameters().items():
                source = tensors[prefix + factor]
                if target.shape != source.shape:
                    raise PaloraError(
                        f"{path} does not fit `model`: {prefix}{factor} has shape {tuple(source.shape)} in the file "
                        f"and {tuple(target.shape)} in the model."
                    )
                target.copy_(source)
    return model
