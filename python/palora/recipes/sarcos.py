"""SARCOS with an MLP: seven torques of a robot arm."""

from __future__ import annotations

from palora.recipes.recipe import Recipe

RECIPE = Recipe(
    name="sarcos",
    summary="seven torques of a robot arm, MLP; the official files",
    source=(
        "PaLoRA paper, Sec. 5.2 and App. F.1, by the protocol of PHN: Adam 1e-4, batch 512, 100 epochs (500 in the "
        "appendix: --epochs 500), r = 4, the 100 rays and the reference point of the literature. Its released "
        "configuration draws one ray a step from an annealed Dirichlet distribution (p = 1)."
    ),
    dataset="sarcos",
    dataset_options={"reduced": False},
    model="mlp",
    model_options={"inputs": 21, "hidden": (256, 256, 256), "outputs": (1,) * 7},
    method_options={
        "palora": {"rank": 4, "schedule": "annealed-dirichlet", "p": 1.0, "rays": 1},
        "pamal": {"window": 1},
    },
    epochs=100,
    batch=512,
    lr=1e-4,
    grid="sarcos",
    validate_every=5,
    reference=(1.0, 5.0, 1.0, 1.0, 10.0, 10.0, 1.0),
    takes="about 2 minutes, estimated",
)
