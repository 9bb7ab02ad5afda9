"""Multi-layer perceptron for tables: Census and SARCOS."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from palora.models.base import MultiTaskModel, positive, positives


class MLP(MultiTaskModel):
    """Shared linear layers with ReLU, one linear head per task.

    Input (n, inputs); output: one tensor (n, outputs[t]) per task, raw.
    Census: `MLP(468, (256,), (2, 2))`, 121,092 parameters.
    SARCOS: `MLP(21, (256, 256, 256), (1,) * 7)`, 139,015.

    Args:
        inputs: features of a row.
        hidden: width of each shared layer, at least one.
        outputs: outputs of each task.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: Sequence[int]) -> None:
        widths = (positive("inputs", inputs), *positives("hidden", hidden))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (before, after) in enumerate(pairwise(widths), start=1):
            layers[f"fc{i}"] = nn.Linear(before, after)
            layers[f"relu{i}"] = nn.ReLU()
        heads = [nn.Linear(widths[-1], width) for width in positives("outputs", outputs)]
        super().__init__(nn.Sequential(layers), heads)
        self._last = f"fc{len(widths) - 1}"

    @property
    def last_shared_layer(self) -> nn.Module:
        return self.trunk.get_submodule(self._last)
