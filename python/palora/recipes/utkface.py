"""UTKFace with ResNet-18: age, gender, ethnicity."""

from __future__ import annotations

from palora.recipes.recipe import Recipe

RECIPE = Recipe(
    name="utkface",
    summary="age, gender and ethnicity of a face, ResNet-18",
    source=(
        "PaMaL paper, App. B: Adam 1e-3, 100 epochs, batch 256; PaLoRA: the same with batch 128 (its released "
        "configuration), r = 4 and one ray a step from an annealed Dirichlet distribution (p = 1). PaMaL: gradient "
        "balancing, W = 3, λ = 1, p = 5 (one version of its code has p = 2); use --batch 256 with it. 70/10/20 per "
        "cent as in the code; the paper says 80/20."
    ),
    dataset="utkface",
    dataset_options={"limit": None},
    model="resnet18",
    model_options={"outputs": (1, 2, 5)},
    method_options={
        "palora": {"rank": 4, "schedule": "annealed-dirichlet", "p": 1.0, "rays": 1},
        "pamal": {"window": 3, "regularisation": 1.0, "p": 5.0, "balance": "gradient"},
    },
    epochs=100,
    batch=128,
    lr=1e-3,
    reference=(1.0, 1.0, 2.0),  # above Huber of the mean age, ln 2 and ln 5: what guessing gives
    validate_every=20,
    takes="about 39 hours, estimated",
)
