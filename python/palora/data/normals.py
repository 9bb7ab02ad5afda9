"""Surface normals from a depth map, for frames that come without them: "derived normals"."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL = (518.86, 519.47)
CENTRE = (325.58, 253.74)
"""Kinect's camera at 640 × 480: focal lengths and principal point in pixels (x, y)."""
WINDOW = 13


def derived_normals(depth: Tensor, camera_scale: float = 0.6, every: int = 1) -> Tensor:
    """Unit normals (3, ⌈H/every⌉, ⌈W/every⌉) in camera coordinates (x right, y down, z away), float32.

    The inverse depth is smoothed (Gaussian, σ = 2), pixels are back-projected, a plane is fitted to each window
    of 13 × 13 points (eigenvector of their covariance with the smallest eigenvalue) and turned to the camera.

    Args:
        depth: (H, W), in metres, all positive.
        camera_scale: width of the map / 640.
        every: only every so many rows and columns are fitted.
    """
    z = 1 / _smooth(1 / depth.double())
    height, width = z.shape
    x = (torch.arange(width).double() - camera_scale * CENTRE[0]) / (camera_scale * FOCAL[0])
    y = (torch.arange(height).double() - camera_scale * CENTRE[1]) / (camera_scale * FOCAL[1])
    points = torch.stack([x.expand(height, width) * z, y[:, None].expand(height, width) * z, z])  # (3, H, W)

    products = (points[:, None] * points[None]).flatten(0, 1)  # (9, H, W)
    mean, moment = (_window_mean(values)[:, ::every, ::every] for values in (points, products))
    covariance = moment.unflatten(0, (3, 3)) - mean[:, None] * mean[None]
    normal = torch.linalg.eigh(covariance.movedim((0, 1), (-2, -1))).eigenvectors[..., 0].movedim(-1, 0)
    away = (normal * points[:, ::every, ::every]).sum(0) > 0
    return torch.where(away, -normal, normal).float()


def _smooth(values: Tensor, sigma: float = 2.0) -> Tensor:
    """Gaussian filter of an (H, W) map, edges repeated."""
    radius = round(4 * sigma)
    at = torch.arange(-radius, radius + 1).to(values)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(values[None, None], (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))[0, 0]


def _window_mean(values: Tensor) -> Tensor:
    """Mean over the part of each 13 × 13 window that lies in the (C, H, W) map."""
    return F.avg_pool2d(values[None], WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)[0]
