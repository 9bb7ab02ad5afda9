"""UTKFace for a CPU: 4,000 faces, two epochs, six rays."""

from __future__ import annotations

from dataclasses import replace

from palora.recipes.utkface import RECIPE as UTKFACE

RECIPE = replace(
    UTKFACE,
    name="utkface-short",
    summary="the same, 2 epochs on 4,000 faces: to see that it runs",
    source=(
        "The settings of utkface cut short, the second epoch at a tenth of the learning rate: not comparable with "
        "published numbers."
    ),
    dataset_options={"limit": 4_000},
    epochs=2,
    # So early the weights move faster than the running statistics of BatchNorm follow: evaluated after 64 steps at
    # 1e-3, the losses were several times those of the training.
    lr_milestones=(1,),
    lr_decay=0.1,
    divisions=2,
    validate_every=1,
    takes="about 15 minutes",
)
