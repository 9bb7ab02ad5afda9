"""UTKFace for a CPU: 4,000 faces, two epochs, six rays."""

from __future__ import annotations

from dataclasses import replace

from palora.recipes.utkface import RECIPE as UTKFACE

RECIPE = replace(
    UTKFACE,
    name="utkface-short",
    summary="the same, 2 epochs on 4,000 faces: to see that it runs",
    source="The settings of utkface cut short: not comparable with published numbers.",
    dataset_options={"limit": 4_000},
    epochs=2,
    divisions=2,
    validate_every=1,
    takes="about 15 minutes, estimated",
)
