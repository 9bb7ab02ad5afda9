"""What goes into the model, shown."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from palora.showing import pictures
from palora.showing.numbers import rounded

MOST_VALUES = 32
"""The most numbers of a table's row that are written out."""


def show_input(values: Tensor) -> dict[str, Any]:
    """One input without its batch dimension.

    ``{"kind": "picture", "picture": …}`` for (1 or 3, H, W), ``{"kind": "values", "values": [...], "of": K}`` for (K,),
    of which the first MOST_VALUES are written, ``{"kind": "tensor", "shape": [...]}`` for anything else.
    """
    if values.dim() == 3 and len(values) in (1, 3):
        return {"kind": "picture", "picture": pictures.image(values), "width": values.shape[2]}
    if values.dim() == 1:
        return {"kind": "values", "values": rounded(values[:MOST_VALUES]), "of": len(values)}
    return {"kind": "tensor", "shape": list(values.shape)}
