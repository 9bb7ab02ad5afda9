"""MultiMNIST-3 with LeNet: three digits, three tasks."""

from __future__ import annotations

from palora.recipes.recipe import Recipe

RECIPE = Recipe(
    name="multimnist3",
    summary="three overlapping digits, LeNet",
    source=(
        "Both papers: MultiMNIST's settings, 20 epochs. PaLoRA: r = 1; the released configuration draws one ray a "
        "step from an annealed Dirichlet distribution (p = 1), where the paper describes the deterministic schedule "
        "(--schedule annealed --rays 10). PaMaL: W = 3, λ = 2, p = 1 (its code; the paper does not say), no balancing."
    ),
    dataset="multimnist3",
    model="lenet",
    model_options={"tasks": 3},
    method_options={
        "palora": {"rank": 1, "schedule": "annealed-dirichlet", "p": 1.0, "rays": 1},
        "pamal": {"window": 3, "regularisation": 2.0},
    },
    epochs=20,
    batch=256,
    lr=1e-3,
    validate_every=5,
    takes="about 3 minutes, estimated",
)
