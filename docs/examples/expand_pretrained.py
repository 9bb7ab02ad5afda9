"""A Pareto front around a network that somebody else trained: CIFAR-10's ResNet-20, age and gender of a face.

    python docs/examples/expand_pretrained.py --data DIR

DIR (default: PALORA_DATA) holds utkface/ (the faces) and pretrained/resnet20-12fca82f.th (the weights, from
github.com/akamaster/pytorch_resnet_cifar10). First the two new heads learn on the trunk as it is, with equal weights:
one point. Then everything is frozen, every layer gets adapters, and they alone are trained: a front.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import palora
from palora.data.folder import data_root
from palora.models import ResNet20

WEIGHTS = "resnet20-12fca82f.th"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the weights were trained with
TASKS = ("age", "gender")


@dataclass
class Result:
    """One point, and the front around it."""

    point: palora.Front
    front: palora.Front
    model: nn.Module


def losses(outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
    """Per-sample losses (rows, 2): Huber for the age in standard deviations, cross-entropy for the gender."""
    age = F.huber_loss(outputs[0], targets[0], reduction="none").squeeze(1)
    return torch.stack([age, F.cross_entropy(outputs[1], targets[1], reduction="none")], 1)


def prepared(split: object) -> list[Tensor]:
    """Faces at CIFAR's 32 × 32 pixels, normalised as CIFAR was, with age and gender."""
    inputs, targets = split.in_memory()  # type: ignore[attr-defined]
    x = F.avg_pool2d(inputs, 2) - torch.tensor(MEAN)[:, None, None]
    return [x / torch.tensor(DEVIATION)[:, None, None], targets[0], targets[1]]


def batches(data: list[Tensor], epochs: int, size: int) -> Iterator[list[Tensor]]:
    for _ in range(epochs):
        for index in torch.randperm(len(data[0])).split(size):
            yield [part[index] for part in data]


def fit_heads(model: ResNet20, train: list[Tensor], epochs: int, batch: int) -> None:
    """Linear scalarisation of the two heads on the fixed trunk."""
    model.eval()  # the trunk's statistics stay those of CIFAR
    model.trunk.requires_grad_(False)
    optimiser = torch.optim.Adam(model.heads.parameters(), lr=1e-2)
    for x, *targets in batches(train, epochs, batch):
        optimiser.zero_grad()
        losses(model(x), tuple(targets)).mean().backward()
        optimiser.step()


def fit_adapters(model: nn.Module, train: list[Tensor], epochs: int, batch: int, rays: int = 3) -> None:
    """The sum over rays of Σ_t λ_t L_t; nothing but the adapters moves."""
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    schedule = palora.schedules.Annealed(tasks=2, rays=rays)
    steps = epochs * -(-len(train[0]) // batch)
    for step, (x, *targets) in enumerate(batches(train, epochs, batch), start=1):
        preferences = schedule(step / steps)
        with palora.at(model, preferences):
            outputs = model(x)
        repeated = tuple(t.repeat(rays, *(1,) * (t.dim() - 1)) for t in targets)
        means = palora.split(losses(outputs, repeated), rays).mean(1)  # (M, 2)
        optimiser.zero_grad()
        (preferences * means).sum().backward()
        optimiser.step()


def run(folder: Path, faces: int | None = 2000, epochs: int = 4, batch: int = 64) -> Result:
    """Heads, then adapters, each for `epochs` epochs on `faces` faces (None: all); both evaluated on the test faces."""
    torch.manual_seed(0)
    data = palora.data.load("utkface", folder=folder, limit=faces)
    train, (x, *targets) = prepared(data.train), prepared(data.test)
    tests = [(x, tuple(targets))]
    model = ResNet20((1, 2))
    model.load_pretrained(folder / "pretrained" / WEIGHTS)
    fit_heads(model, train, epochs, batch)
    point = palora.sweep(model, tests, losses, torch.tensor([[0.5, 0.5]]), tasks=TASKS)
    palora.adapt(model, TASKS, rank=4, alpha=4.0, train_base=False)
    if not (report := palora.check(model, x[:4])):  # once for a new model: many rays are as each alone
        raise SystemExit(str(report))
    fit_adapters(model, train, epochs, batch)
    front = palora.sweep(model, tests, losses, palora.simplex_grid(2, 10), rays_per_pass=3, tasks=TASKS)
    return Result(point, front, model)


def main() -> None:
    parser = argparse.ArgumentParser(description="A Pareto front around a pretrained CIFAR-10 ResNet-20.")
    parser.add_argument("--data", type=Path, default=None, help="folder with utkface/ and pretrained/")
    parser.add_argument("--faces", type=int, default=2000, help="training faces")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    result = run(data_root(arguments.data), arguments.faces, arguments.epochs)
    print("            age (Huber)  gender (cross-entropy)")
    print("heads only  " + "  ".join(f"{loss:.4f}" for loss in result.point.losses[0]))
    for ray, row in zip(result.front.rays, result.front.losses, strict=True):
        print(f"{ray[0]:.1f} {ray[1]:.1f}     " + "  ".join(f"{loss:.4f}" for loss in row))
    print("spearman    " + ", ".join(f"{value:.3f}" for value in result.front.monotonicity()))


if __name__ == "__main__":
    main()
