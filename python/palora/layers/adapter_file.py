"""An adapter file as data of unknown origin: everything is checked before anything is allocated or written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palora.errors import PaloraError
from palora.layers.adapter import check_settings
from palora.optional import need
from palora_kernels.typed import shown

FORMAT = "palora-adapters-1"
PURPOSE = "A file of adapters"
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MOST_METADATA = 64 * 2**20  # characters


class Contents(NamedTuple):
    """What a file says of itself, and its tensors' shapes and dtypes (safetensors' names), without values."""

    settings: dict[str, dict[str, Any]]
    tasks: list[str]
    rank: int
    alpha: float
    form: str
    train_base: bool
    base: dict[str, str]
    trained: list[str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]


def _opened(path: Path) -> Any:
    safetensors = need("safetensors", PURPOSE)
    if not path.is_file():
        raise PaloraError(f"There is no adapter file {path}.")
    try:
        return safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise PaloraError(f"The adapter file {path} is corrupt or not a safetensors file: {_brief(error)}.") from error


def _brief(error: object) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def contents(path: Path) -> Contents:
    """Raises PaloraError for a file that is missing, corrupt, or not as `save_adapters` writes them."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
        dtypes = {key: str(one.get_dtype()) for key, one in slices.items()}
    if metadata.get("format") != FORMAT:
        raise PaloraError(f"{path} is a safetensors file, but not one written by palora.save_adapters.")
    try:
        if sum(map(len, metadata.values())) > _MOST_METADATA:
            raise ValueError("too long")
        return _checked(metadata, shapes, dtypes)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        said = f"The adapter file {path} is damaged: its metadata cannot be understood ({_brief(what)})."
        raise PaloraError(said) from error


def _json(metadata: dict[str, str], key: str, fits: Callable[[Any], bool], default: str | None = None) -> Any:
    value = json.loads(metadata[key] if default is None else metadata.get(key, default))
    if not fits(value):
        raise ValueError(f"`{key}` has the wrong type")
    return value


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value) and len(set(value)) == len(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _checked(metadata: dict[str, str], shapes: dict[str, tuple[int, ...]], dtypes: dict[str, str]) -> Contents:
    settings = _json(metadata, "layers", lambda v: isinstance(v, dict) and bool(v))
    tasks = _json(metadata, "tasks", _are_names)
    for name, one in settings.items():
        if not isinstance(one, dict) or not {"tasks", "rank", "alpha", "form"} <= set(one):
            raise ValueError(f"settings of layer {name!r}")
        check_settings(one["tasks"], one["rank"], one["alpha"])
        if one["tasks"] != len(tasks) or not isinstance(one["form"], str):
            raise ValueError(f"settings of layer {name!r}")
    rank, alpha = int(metadata["rank"]), float(metadata["alpha"])
    check_settings(len(tasks), rank, alpha)
    return Contents(
        settings,
        tasks,
        rank,
        alpha,
        metadata["form"],
        _json(metadata, "train_base", lambda v: isinstance(v, bool), "true"),
        _json(metadata, "base", _are_texts, "{}"),
        _json(metadata, "trained", _are_names, "[]"),
        shapes,
        dtypes,
    )


def check_tensors(path: Path, found: Contents, adapters: dict[str, tuple[int, ...]], base: dict[str, Tensor]) -> None:
    """That the file holds just these tensors, in these shapes and in dtypes that fit."""
    expected = {**{name: tuple(t.shape) for name, t in base.items()}, **adapters}
    odd = sorted(set(expected) ^ set(found.shapes))
    if odd:
        what = "lacks" if odd[0] in expected else "holds an unexpected"
        raise PaloraError(f"{path} does not fit `model`: the file {what} tensor {shown(odd[0])}.")
    for name, shape in expected.items():
        if found.shapes[name] != shape:
            raise PaloraError(
                f"{path} does not fit `model`: {name} has shape {found.shapes[name]} in the file and {shape} in the "
                "model."
            )
        target = base.get(name)
        floating = target is None or target.is_floating_point()
        if floating and found.dtypes[name] not in _FLOATS:
            raise PaloraError(f"{path}: {name} should hold floating-point numbers. Found {found.dtypes[name]}.")


def values(path: Path, found: Contents, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors: adapters finite, those of the base without nan and of the model's kind."""
    safetensors = need("safetensors", PURPOSE)
    try:
        with _opened(path) as file:
            read = {name: file.get_tensor(name) for name in found.shapes}
    except (safetensors.SafetensorError, OSError) as error:
        raise PaloraError(f"The adapter file {path} is corrupt or not a safetensors file: {_brief(error)}.") from error
    for name, tensor in read.items():
        target = base.get(name)
        if target is not None and not target.is_floating_point() and tensor.dtype != target.dtype:
            raise PaloraError(f"{path}: {name} should hold {target.dtype}, as in the model. Found {tensor.dtype}.")
        bad = not bool(tensor.isfinite().all()) if target is None else bool(tensor.isnan().any())
        if bad or tuple(tensor.shape) != found.shapes[name]:
            raise PaloraError(f"{path}: {name} should hold finite numbers. Found nan or inf.")
    return read


def order_of_tasks(path: Path, tasks: list[str], names: tuple[str, ...] | None) -> list[int] | None:
    """Where each of the model's tasks lies in the file; None, they lie alike. Numbers are no names and fit any."""
    numbers = [str(t) for t in range(len(tasks))]
    if names is None or list(names) == tasks or numbers in (list(names), tasks):
        return None
    if set(names) != set(tasks):
        raise PaloraError(f"{path} does not fit `model`: the file's tasks are {tasks}, the model's {list(names)}.")
    return [tasks.index(name) for name in names]
