"""Random scaling and flipping, against slices and loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from palora.data.augment import SCALES, ScaleCropFlip

H, W = 12, 18


def sample() -> tuple[Tensor, tuple[Tensor, ...]]:
    """Every pixel of label and depth says where it is; the image is a plane, which bilinear resizing keeps."""
    place = torch.arange(H * W).view(H, W)
    plane = torch.linspace(0, 1, H)[:, None] + torch.linspace(0, 2, W)
    normal = torch.nn.functional.normalize(torch.randn(3, H, W), dim=0)
    return plane.expand(3, H, W), (place, place[None].float() + 1, normal)


def test_all_targets_and_the_image_move_together() -> None:
    change, (image, (label, depth, normal)) = ScaleCropFlip(depth=1, normals=2), sample()
    seen = set()
    for seed in range(40):
        new, (l, d, n) = change(image, (label, depth, normal), np.random.default_rng(seed))
        assert new.shape == image.shape
        assert (l.shape, d.shape, n.shape) == (label.shape, depth.shape, normal.shape)
        assert l.dtype == label.dtype
        rows, columns = l // W, l % W
        mirrored = bool(columns[0, 0] > columns[0, -1])
        ratio = ((l.double() + 1) / d[0].double()).median().item()
        scale = min(SCALES, key=lambda s: abs(s - ratio))
        assert abs(scale - ratio) < 1e-5
        torch.testing.assert_close(d[0] * scale, (l + 1).float())
        expected = normal[:, rows, columns]
        expected[0] *= -1 if mirrored else 1
        assert torch.equal(n, expected)
        # The crop has 1/scale of height and width, and the image shows what the maps do, to a pixel.
        assert int(rows.max() - rows.min()) == int(H / scale) - 1
        assert int(columns.max() - columns.min()) == int(W / scale) - 1
        assert (new[0] - image[0][rows, columns]).abs().max() < 0.2
        corner = new[:, 0, -1 if mirrored else 0]
        torch.testing.assert_close(corner, image[:, int(rows[0, 0]), int(columns.min())])
        seen.add((scale, mirrored))
    assert len(seen) == 6, "every scale, mirrored and not"


def test_the_generator_decides_everything() -> None:
    change, (image, targets) = ScaleCropFlip(depth=1, normals=2), sample()
    first, again, other = (change(image, targets, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert all(map(torch.equal, first[1], again[1]))
    assert not torch.equal(first[1][0], other[1][0])


def test_holes_stay_holes() -> None:
    image, (label, depth, normal) = sample()
    label[3:6] = -1
    depth[:, 3:6] = 0
    normal[:, 3:6] = 0
    for seed in range(10):
        _, (l, d, n) = ScaleCropFlip(depth=1, normals=2)(image, (label, depth, normal), np.random.default_rng(seed))
        hole = l == -1
        assert torch.equal(hole, d[0] == 0)
        assert torch.equal(hole, (n == 0).all(0))
