"""Multi-Fashion with LeNet: two garments."""

from __future__ import annotations

from dataclasses import replace

from palora.recipes.multimnist import RECIPE as MULTIMNIST

RECIPE = replace(
    MULTIMNIST,
    name="multi-fashion",
    summary="two overlapping garments of Fashion-MNIST, LeNet",
    source="MultiMNIST's settings on the set of Lin et al. (2019) and COSMOS; in neither paper.",
    dataset="multi-fashion",
    dataset_options={},
)
