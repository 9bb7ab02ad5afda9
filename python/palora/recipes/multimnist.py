"""MultiMNIST with LeNet, as both papers train it: complete MNIST, 50,000 / 10,000 / 10,000 pairs."""

from __future__ import annotations

from palora.recipes.recipe import Recipe

RECIPE = Recipe(
    name="multimnist",
    summary="two overlapping digits, LeNet; complete MNIST, the papers' setting",
    source=(
        "PaLoRA paper, experiments on MultiMNIST; the corner of the second digit (6, 6), the annealing "
        "exponent Q·τ and the form of the adapters are those of its authors' code."
    ),
    dataset="multimnist",
    dataset_options={"offset": 6},
    model="lenet",
    model_options={"tasks": 2},
    epochs=10,
    batch=256,
    lr=1e-3,
)
