"""Points in objective space as the array that the indicators work on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from palora_kernels.typed import shown

Array = npt.NDArray[np.float64]


def as_array(name: str, values: Any) -> Array:
    """A tensor, array or nested sequence as float64, all entries finite."""
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"`{name}` should be numbers in a rectangular array. Found {shown(values)}.") from None
    if not np.isfinite(array).all():
        where = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        found = f"{array[where]} at index {list(where)}"
        raise ValueError(f"`{name}` should be finite numbers. Found {found}; leave such points out.")
    return array


def as_points(values: Any) -> Array:
    """(points, objectives) float64, where an empty sequence is an empty set of points."""
    array = as_array("points", values)
    if array.ndim == 1 and array.size == 0:
        return array.reshape(0, 0)
    if array.ndim != 2:
        raise ValueError(
            f"`points` should have shape (points, objectives), one row a point. Found shape {array.shape}."
        )
    return np.ascontiguousarray(array)
