"""Tensors as small pictures in data URIs: images, maps of classes, depth and normals."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from torch import Tensor

from palora.optional import need

SIDE = 160
"""The most pixels of a picture's longer side; larger ones are made smaller."""

CLASS_COLOURS = (
    *("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#bab0ac"),
    *("#1b4f72", "#a04000", "#78281f", "#0e6655", "#196f3d", "#9a7d0a", "#6c3483", "#c2185b", "#4e342e", "#5d6d7e"),
)
DEPTH_COLOURS = ("#fde725", "#7ad151", "#22a884", "#2a788e", "#414487", "#440154")  # near is bright
NO_TRUTH = "#ffffff"


def image(values: Tensor) -> str:
    """An input (1 or 3, H, W): as it is where it lies in 0 … 1, otherwise stretched to its range."""
    values = _smaller(values.detach().float().cpu(), "area").nan_to_num()
    low, high = values.min(), values.max()
    if low < 0 or high > 1:
        values = (values - low) / (high - low).clamp(min=1e-12)
    pixels = (values * 255).round().byte()
    if len(pixels) == 1:
        return _uri(_pillow().fromarray(pixels[0].numpy()), "png")
    return _uri(_pillow().fromarray(pixels.movedim(0, -1).contiguous().numpy()), "jpeg")


def classes(indices: Tensor) -> str:
    """Class indices (H, W), one colour a class; white where there is none (−1)."""
    indices = _smaller(indices.detach().cpu()[None].float(), "nearest")[0].long()
    shown = torch.where(indices < 0, len(CLASS_COLOURS), indices % len(CLASS_COLOURS)).byte()
    return _uri(_indexed(shown, [*CLASS_COLOURS, NO_TRUTH]), "png")


def depth(values: Tensor, low: float, high: float, valid: Tensor | None = None) -> str:
    """Depth (H, W) in the colours of `low` … `high`; white where not `valid`."""
    step = 255 / (len(DEPTH_COLOURS) - 1)
    levels = ((values.detach().float().cpu() - low) / max(high - low, 1e-9)).nan_to_num().clamp(0, 1) * 254
    if valid is not None:
        levels = levels.masked_fill(~valid.cpu(), 255)
    palette = [_between(DEPTH_COLOURS, level / step) for level in range(255)]
    shown = _smaller(levels[None], "nearest")[0].round().byte()
    return _uri(_indexed(shown, [*palette, NO_TRUTH]), "png")


def normals(values: Tensor, valid: Tensor | None = None) -> str:
    """Normals (3, H, W), scaled to length 1: x, y, z as red, green, blue, towards the camera (−z) bright in blue."""
    unit = torch.nn.functional.normalize(values.detach().float().cpu().nan_to_num(), dim=0)
    colours = (unit * torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1) + 1) / 2
    return image(colours if valid is None else colours.masked_fill(~valid.cpu(), 1.0))


def _smaller(values: Tensor, mode: str) -> Tensor:
    """(C, H, W) with its longer side at most SIDE."""
    longer = max(values.shape[1:])
    if longer <= SIDE:
        return values
    size = [max(1, round(side * SIDE / longer)) for side in values.shape[1:]]
    return torch.nn.functional.interpolate(values[None], size=size, mode=mode)[0]


def _pillow() -> Any:
    return need("PIL.Image", "Showing pictures")


def _indexed(levels: Tensor, palette: list[str]) -> Any:
    picture = _pillow().fromarray(levels.numpy())
    picture.putpalette([int(colour[i : i + 2], 16) for colour in palette for i in (1, 3, 5)])
    return picture


def _between(colours: tuple[str, ...], at: float) -> str:
    """The colour at position `at` of a scale whose fixed colours lie at 0, 1, 2, …"""
    first = min(int(at), len(colours) - 2)
    pair = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours[first : first + 2]]
    return "#" + "".join(f"{round(a + (b - a) * (at - first)):02x}" for a, b in zip(*pair, strict=True))


def _uri(picture: Any, kind: str) -> str:
    file = io.BytesIO()
    picture.save(file, kind.upper(), **({"quality": 85} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
