"""Fashion-and-MNIST with LeNet: a digit and a garment."""

from __future__ import annotations

from dataclasses import replace

from palora.recipes.multimnist import RECIPE as MULTIMNIST

RECIPE = replace(
    MULTIMNIST,
    name="fashion-and-mnist",
    summary="a digit and a garment that overlap, LeNet",
    source="MultiMNIST's settings on the set of Lin et al. (2019) and COSMOS; in neither paper.",
    dataset="fashion-and-mnist",
    dataset_options={},
)
