"""NYUv2 with SegNet: segmentation, depth and surface normals."""

from __future__ import annotations

from palora.recipes.recipe import Recipe

RECIPE = Recipe(
    name="nyuv2",
    summary="segmentation, depth and normals of rooms, SegNet",
    source=(
        "PaLoRA paper, Sec. 5.3 and App. B: Adam 1e-4, halved after 100 of 200 epochs, batch 2, r = 4, M = 6, gradient "
        "balancing. Normals: cosine loss as in the code of Nash-MTL, whose settings the paper names; its own code has "
        "the L1 distance (--data-option normal_loss=l1). PaMaL, for which the paper names nothing: as for CityScapes. "
        "The losses average over the valid pixels of each image, in "
        "the authors' code over those of each batch. The reference point of the hypervolume is ours: the papers have "
        "none."
    ),
    dataset="nyuv2",
    dataset_options={"augment": True, "scale": 1, "normal_loss": "cosine", "memory": None},
    model="segnet",
    model_options={"outputs": (13, 1, 3), "unit_length": (2,)},
    method_options={
        "palora": {"rank": 4, "rays": 6, "balance": "gradient"},
        "pamal": {"window": 3, "regularisation": 1.0, "p": 5.0, "balance": "gradient"},
    },
    epochs=200,
    batch=2,
    lr=1e-4,
    lr_milestones=(100,),
    validate_every=20,
    reference=(3.0, 3.0, 2.0),
    takes="about 55 days, estimated",
)
