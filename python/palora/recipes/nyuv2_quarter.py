"""NYUv2 for a CPU: a quarter of height and width, three epochs, three rays."""

from __future__ import annotations

from dataclasses import replace

from palora.recipes.nyuv2 import RECIPE as NYUV2

RECIPE = replace(
    NYUV2,
    name="nyuv2-quarter",
    summary="the same at 72 × 96 pixels, 3 epochs: to see that it runs",
    source="The settings of nyuv2 cut short, balanced by the last shared layer: not comparable with published numbers.",
    dataset_options={**NYUV2.dataset_options, "scale": 4},
    method_options={
        "palora": {"rank": 4, "rays": 3, "balance": "gradient-last"},
        "pamal": {"window": 2, "regularisation": 1.0, "p": 5.0, "balance": "gradient-last"},
    },
    epochs=3,
    lr_milestones=(),
    divisions=2,
    validate_every=1,
    takes="about 10 minutes, with --limit 120",
)
