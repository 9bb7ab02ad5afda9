"""Frames in the layouts of the dense sets, made up: small pictures of two planes.

    python tests/frame_fixtures.py OUT --frames ZIP

writes a CityScapes *fixture* instead: frames of NYUv2 (ZIP, see `palora.data.nyuv2`) in CityScapes' layout,
128 × 256 pixels, 7 classes, inverse depth. It trains and evaluates; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F


def scene(seed: int, height: int, width: int, classes: int) -> dict[str, np.ndarray]:
    """Image, label (with −1), depth and normals of one frame, as the npy files hold them."""
    rng = np.random.default_rng(seed)
    label = rng.integers(-1, classes, size=(height, width)).astype(np.float32)
    depth = (1 + 3 * rng.random((height, width, 1))).astype(np.float32)
    depth[rng.random((height, width)) < 0.1] = 0
    normal = rng.normal(size=(height, width, 3))
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    normal[rng.random((height, width)) < 0.1] = 0
    image = rng.random((height, width, 3)).astype(np.float32)
    return {"image": image, "label": label, "depth": depth, "normal": normal.astype(np.float32)}


def write_npy(root: Path, counts: dict[str, int], names: dict[str, str], size: tuple[int, int], classes: int) -> None:
    """`names`: what `scene` calls a field → its folder."""
    for p, (part, count) in enumerate(counts.items()):
        for i in range(count):
            for kind, values in scene(1000 * p + i, *size, classes).items():
                if kind in names:
                    path = root / part / names[kind] / f"{i}.npy"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    np.save(path, values)


def cityscapes(root: Path, train: int = 13, val: int = 4, size: tuple[int, int] = (32, 64)) -> Path:
    names = {"image": "image", "label": "label_7", "depth": "depth"}
    write_npy(root / "cityscapes", {"train": train, "val": val}, names, size, 7)
    return root


def nyuv2(root: Path, train: int = 9, val: int = 4, size: tuple[int, int] = (32, 48)) -> Path:
    names = {kind: kind for kind in ("image", "label", "depth", "normal")}
    write_npy(root / "nyuv2", {"train": train, "val": val}, names, size, 13)
    return root


def nyuv2_zip(path: Path, train: int = 9, test: int = 4, size: tuple[int, int] = (36, 48)) -> Path:
    """The zip file that `palora.data.nyuv2` reads: 8-bit pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for part, count in (("train", train), ("test", test)):
            for i in range(count):
                rng = np.random.default_rng(i + 100 * (part == "test"))
                label = rng.integers(0, 14, size=size, dtype=np.uint8)
                label[label == 13] = 255
                maps = {
                    f"image/{i:04d}.jpg": rng.integers(256, size=(*size, 3), dtype=np.uint8),
                    f"depth/{i:04d}.png": rng.integers(20, 250, size=size, dtype=np.uint8),
                    f"label13/{i:04d}.png": label,
                }
                for name, pixels in maps.items():
                    archive.writestr(f"{part}/{name}", encoded(pixels, name))
    return path


def encoded(pixels: np.ndarray, name: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG" if name.endswith("jpg") else "PNG")
    return buffer.getvalue()


def cityscapes_from_nyuv2(source: Path, out: Path, count: dict[str, int]) -> None:
    """Frames of NYUv2 in CityScapes' layout: classes modulo 7, the inverse of the depth."""
    from palora.data.pictures import Pictures

    pictures = Pictures(source, "")
    for part, folder in (("train", "train"), ("test", "val")):
        names = [name for name in pictures.names if f"{part}/image/" in name][: count[folder]]
        for i, name in enumerate(names):
            number = Path(name).stem
            image = torch.from_numpy(pictures.pixels(name, "RGB")).movedim(-1, 0)[None].float() / 255
            label = torch.from_numpy(pictures.pixels(f"{part}/label13/{number}.png", "L"))[None, None].float()
            depth = torch.from_numpy(pictures.pixels(f"{part}/depth/{number}.png", "L"))[None, None].float()
            small = {
                "image": F.interpolate(image, (128, 256), mode="bilinear", antialias=True)[0].movedim(0, -1),
                "label_7": F.interpolate(label, (128, 256))[0, 0],
                "depth": 25.5 / (F.interpolate(depth, (128, 256))[0].movedim(0, -1) + 0.5),
            }
            classes = small["label_7"]
            small["label_7"] = torch.where(classes == 255, -1.0, classes % 7)
            for kind, values in small.items():
                path = out / "cityscapes" / folder / kind / f"{i}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, values.numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--train", type=int, default=60)
    parser.add_argument("--val", type=int, default=20)
    given = parser.parse_args()
    cityscapes_from_nyuv2(given.frames, given.out, {"train": given.train, "val": given.val})
