"""SARCOS on the official test file alone: as many steps on a tenth of the rows."""

from __future__ import annotations

from dataclasses import replace

from palora.recipes.sarcos import RECIPE as SARCOS

RECIPE = replace(
    SARCOS,
    name="sarcos-reduced",
    summary="the same on the 4,449-row test file, re-split; as many steps",
    source=(
        "The settings of sarcos on a small set: 7 steps an epoch, so 1,243 epochs for the 8,700 steps of 100 epochs "
        "on the official rows. Not comparable with published numbers."
    ),
    dataset_options={"reduced": True},
    epochs=1_243,
    validate_every=50,
    takes="about 2 minutes, estimated",
)
