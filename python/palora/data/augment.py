"""Random scaling and flipping of a frame and its maps, on tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from palora.data.lazy import Batch

SCALES = (1.0, 1.2, 1.5)


@dataclass(frozen=True)
class ScaleCropFlip:
    """A crop of 1, 1/1.2 or 1/1.5 of height and width, resized to the full frame, mirrored every other time.

    The image is resized bilinearly, the maps by nearest pixel. What comes closer by the zoom has its depth
    divided by the scale (the authors' code does the same to CityScapes' *inverse* depth, and so does this).
    Mirroring turns the first component of normals around.

    Attributes:
        depth: target that is a depth map (1, H, W).
        normals: target that holds normals (3, H, W); None: none does.

    All other targets are class maps (H, W).
    """

    depth: int = 1
    normals: int | None = None

    def __call__(self, inputs: Tensor, targets: tuple[Tensor, ...], generator: np.random.Generator) -> Batch:
        """One sample: `inputs` (3, H, W)."""
        height, width = inputs.shape[-2:]
        scale = SCALES[int(generator.integers(len(SCALES)))]
        h, w = int(height / scale), int(width / scale)
        top, left = (int(generator.integers(room + 1)) for room in (height - h, width - w))
        mirrored = bool(generator.random() < 0.5)

        def resized(values: Tensor, mode: str) -> Tensor:
            part = values[..., top : top + h, left : left + w]
            corners = {"align_corners": True} if mode == "bilinear" else {}
            flat = part.reshape(1, -1, h, w)
            whole = F.interpolate(flat, size=(height, width), mode=mode, **corners)  # type: ignore[arg-type]
            return whole.reshape(values.shape)

        changed = []
        for task, target in enumerate(targets):
            if target.is_floating_point():
                values = resized(target, "nearest")
                values = values / scale if task == self.depth else values
            else:  # class numbers are small: float32 holds them exactly
                values = resized(target.float(), "nearest").to(target.dtype)
            if mirrored:
                values = values.flip(-1)
                if task == self.normals:
                    values = values * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
            changed.append(values)
        image = resized(inputs, "bilinear")
        return image.flip(-1) if mirrored else image, tuple(changed)
