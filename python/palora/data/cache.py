"""Tensors that take seconds to make, kept in one safetensors file named after everything they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from palora.data.folder import cache_root
from palora.errors import UnwritableError
from palora.files import replacing
from palora.optional import need
from palora_kernels.reading import require_file

_FORMAT = 1
_log = logging.getLogger("palora.data")

Key = Mapping[str, "str | int | None"]


def cache_path(name: str, key: Key) -> Path:
    """Where the tensors of `name` made from `key` are kept."""
    text = json.dumps({"format": _FORMAT, "name": name, **key}, sort_keys=True)
    return cache_root() / "prepared" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def cached(name: str, key: Key, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that `build` makes, from the cache if they are there.

    `key` lists all that they depend on. A file that is damaged (its checksum over all tensors is kept inside)
    is made anew, with one line in the log; one that cannot be written costs a line and nothing else.
    MissingPackageError without safetensors.
    """
    SafetensorError = need("safetensors", "The cache of prepared data").SafetensorError
    path = cache_path(name, key)
    if path.exists():
        try:
            return _read(path)
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            _log.warning("The cache file %s is damaged (%s): building it anew.", path, error)
    tensors = build()
    try:
        _write(path, tensors)
    except UnwritableError as error:
        _log.warning("The cache file %s: going on without it.", error)
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    require_file(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        expected = (file.metadata() or {}).get("sha256")
    if _digest(tensors) != expected:
        raise ValueError("its checksum does not match")
    return tensors


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with replacing(path) as new:
        save_file(tensors, new, metadata={"sha256": _digest(tensors)})
