"""MultiMNIST with LeNet, as both papers train it: complete MNIST, 50,000 / 10,000 / 10,000 pairs."""

from __future__ import annotations

from palora.recipes.recipe import Recipe

RECIPE = Recipe(
    name="multimnist",
    summary="two overlapping digits, LeNet; complete MNIST, the papers' setting",
    source=(
        "PaLoRA paper, Sec. 5.1 and App. B: 10 epochs, r = 1; Adam 1e-3 and batch 256 as in PaMaL's. α and Q are the "
        "best of a grid (α = 1, 2, 5, 10; palora ablate multimnist --set alpha=1,2,5,10) which the paper does not "
        "name. The corner of the second digit (6, 6; the papers: --data-option offset=8), the annealing exponent Q·τ "
        "(printed: τ/Q, --exponent quotient) and the form of the adapters are those of the authors' code. PaMaL: "
        "W = 4, λ = 0. COSMOS: λ = 8, α = 1. PHN: the setting of 10 epochs; its own is --lr 1e-4 --epochs 150."
    ),
    dataset="multimnist",
    dataset_options={"offset": 6},
    model="lenet",
    model_options={"tasks": 2},
    epochs=10,
    batch=256,
    lr=1e-3,
    takes="about 3 minutes, estimated",
)
