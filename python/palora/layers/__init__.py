"""Adapted layers and the model around them: adapt, at, split, merge, save and load.

- ``linear``, ``conv``: the drop-in layers; ``adapter``: what they share; ``norm``: ray-wise batch normalisation.
- ``ray_layer``: what depends on the ray; ``dora``, ``ensemble_layers``: other layers that do.
- ``adapting``, ``ensembling``: the layer swaps; ``refusals``, ``fast_paths``: what cannot pass; ``wiring``: hooks.
- ``state``, ``routing``, ``expansion``, ``arguments``, ``context``: where rays live, how a batch becomes M batches.
- ``trial``, ``forms``, ``trial_pass``, ``replica``, ``watching``, ``comparing``, ``outputs``, ``known``: whose rows are
  whose, tried out before the first stacked pass; ``check``, ``checking``, ``recording``: the same and more, when asked;
  ``splitting``: back to each ray's; ``by_hand``, ``layouts``: where it has to be said. ``reads``: weights that are read
  behind an adapter's back.
- ``merging`` (with ``baking``, ``ties``), ``storing`` (with ``base``): one preference as a plain model; adapters in a
  file. ``inside``: the model in its wrappers. ``summarising``: what was adapted.
"""

from __future__ import annotations

from palora.layers.adapting import adapt
from palora.layers.by_hand import rays_of, rows
from palora.layers.check import Report, check
from palora.layers.context import at
from palora.layers.conv import PaLoRAConv2d
from palora.layers.dora import DoRAConv2d, DoRALinear
from palora.layers.ensemble_layers import EnsembleConv2d, EnsembleLinear, EnsembleNorm
from palora.layers.ensembling import ensemble
from palora.layers.expansion import ReducedOutputWarning, UnusedAdapterWarning
from palora.layers.linear import PaLoRALinear
from palora.layers.merging import merge
from palora.layers.norm import RayBatchNorm1d, RayBatchNorm2d, RayBatchNorm3d, RaySyncBatchNorm
from palora.layers.refusals import UnsupportedModuleError
from palora.layers.routing import RowsError
from palora.layers.splitting import split
from palora.layers.storing import load_adapters, save_adapters
from palora.layers.summarising import Summary, summary
from palora.layers.wiring import adapted_layers, adapter_parameters, ray_layers

__all__ = [
    "DoRAConv2d",
    "DoRALinear",
    "EnsembleConv2d",
    "EnsembleLinear",
    "EnsembleNorm",
    "PaLoRAConv2d",
    "PaLoRALinear",
    "RayBatchNorm1d",
    "RayBatchNorm2d",
    "RayBatchNorm3d",
    "RaySyncBatchNorm",
    "ReducedOutputWarning",
    "Report",
    "RowsError",
    "Summary",
    "UnsupportedModuleError",
    "UnusedAdapterWarning",
    "adapt",
    "adapted_layers",
    "adapter_parameters",
    "at",
    "check",
    "ensemble",
    "load_adapters",
    "merge",
    "ray_layers",
    "rays_of",
    "rows",
    "save_adapters",
    "split",
    "summary",
]
