"""CityScapes with SegNet: segmentation and inverse depth."""

from __future__ import annotations

from palora.recipes.recipe import Recipe

RECIPE = Recipe(
    name="cityscapes",
    summary="segmentation and depth of streets, SegNet",
    source=(
        "PaLoRA paper, Sec. 5.3 and App. B: Adam 1e-4, halved after 75 of 100 epochs, batch 8, r = 4, M = 5, gradient "
        "balancing. PaMaL: gradient balancing, W = 3, λ = 1, p = 5 (one version of its code has p = 7). The losses "
        "average over the valid pixels of each image, in the authors' code over those of each batch. The reference "
        "point of the hypervolume is ours: the papers have none."
    ),
    dataset="cityscapes",
    dataset_options={"augment": True, "scale": 1, "memory": None},
    model="segnet",
    model_options={"outputs": (7, 1)},
    method_options={
        "palora": {"rank": 4, "rays": 5, "balance": "gradient"},
        "pamal": {"window": 3, "regularisation": 1.0, "p": 5.0, "balance": "gradient"},
    },
    expansion_epochs=5,
    epochs=100,
    batch=8,
    lr=1e-4,
    lr_milestones=(75,),
    validate_every=20,
    reference=(2.0, 1.0),
    takes="about 15 days, estimated",
)
