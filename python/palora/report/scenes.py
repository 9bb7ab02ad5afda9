"""What a dense network sees at each preference: segments, depth and normals of one picture along λ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from palora.report.saving import Where, styled


def scene_figure(
    image: Tensor,
    targets: Sequence[Tensor],
    outputs: Sequence[Tensor],
    rays: Tensor,
    tasks: Sequence[str],
    path: Where = None,
) -> Figure:
    """A row per task: the truth, then the answer at each ray. The picture itself is at the top left.

    Pictures of research data sets must not be published with the figure: see their licences.

    Args:
        image: (3, H, W) in 0 … 1.
        targets: per task (H, W) int64 classes with −1 for none, (1, H, W) depth with 0 for none, or (3, H, W)
            unit normals with 0 for none; which one it is, shape and type tell.
        outputs: per task (M, classes, H, W) scores, (M, 1, H, W) depth, or (M, 3, H, W) normals.
        rays: (M, T).
        tasks: T names.
    """
    if not len(targets) == len(outputs) == len(tasks) == rays.shape[1]:
        raise ValueError(
            f"`targets`, `outputs`, `tasks` and the columns of `rays` should be as many. Found {len(targets)}, "
            f"{len(outputs)}, {len(tasks)} and {rays.shape[1]}."
        )
    height, width = image.shape[1:]
    columns, rows = len(rays) + 2, len(tasks)
    side = 1.15
    with styled(path) as save:
        size = (side * width / height * columns + 0.2, side * rows + 0.35)
        figure = Figure(figsize=size, layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.axis("off")
        panels[0][0].imshow(image.movedim(0, -1).clamp(0, 1).numpy())
        heads = ["image", "truth", *("λ = " + ", ".join(f"{weight:.2g}" for weight in ray) for ray in rays.tolist())]
        for axes, head in zip(panels[0], heads, strict=True):
            axes.set_title(head, fontsize=7)
        for row, (task, target, output) in enumerate(zip(tasks, targets, outputs, strict=True)):
            for axes, picture in zip(panels[row][1:], _pictures(target, output), strict=True):
                axes.imshow(picture)
            label = {"rotation": 90, "va": "center", "ha": "right", "fontsize": 7}
            panels[row][1].text(-0.03, 0.5, task, transform=panels[row][1].transAxes, **label)
        return save(figure)


def _pictures(target: Tensor, output: Tensor) -> list[np.ndarray]:
    """RGB of the truth and of every ray's answer, in one scale of colours; white where there is no truth."""
    if not target.is_floating_point():
        classes = output.shape[1]
        palette = matplotlib.colormaps["tab20"](np.arange(classes) % 20)[:, :3]
        shown = [np.where((target < 0).numpy()[..., None], 1.0, palette[target.clamp(min=0).numpy()])]
        return shown + [palette[guess.numpy()] for guess in output.argmax(1)]
    if len(target) == 3:
        unit = torch.nn.functional.normalize(output.float(), dim=1)
        hole = (target == 0).all(0).numpy()[..., None]
        # Towards the camera (−z) is bright in the third channel.
        return [np.where(hole, 1.0, _normals(target))] + [_normals(answer) for answer in unit]
    valid = target[0] != 0
    low, high = (float(target[0][valid].min()), float(target[0][valid].max())) if valid.any() else (0.0, 1.0)
    colours = matplotlib.colormaps["viridis"]

    def painted(depth: Tensor) -> np.ndarray:
        painted_: np.ndarray = colours(((depth - low) / max(high - low, 1e-9)).clamp(0, 1).numpy())[..., :3]
        return painted_

    return [np.where(valid.numpy()[..., None], painted(target[0]), 1.0)] + [painted(answer[0]) for answer in output]


def _normals(values: Tensor) -> np.ndarray:
    flipped = values * torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1)
    picture: np.ndarray = ((flipped + 1) / 2).movedim(0, -1).clamp(0, 1).numpy()
    return picture
