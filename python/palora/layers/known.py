"""What a trial found, and what the passes after it make of that."""

from __future__ import annotations

from torch import Tensor

from palora.layers.arguments import Rules
from palora.layers.ray_layer import RayLayer
from palora.layers.routing import RowsError, describe
from palora.layers.splitting import Place
from palora.layers.state import Slot


class Known:
    """What a trial found.

    Attributes:
        axes: where each argument has its batch, by expansion point. names: which layers ran.
        outputs: where each tensor of the outputs has it; None, not known.
        written: whether the model changes its batch in place, so that rays cannot share it.
    """

    def __init__(
        self, axes: dict[int, dict[str, int | None]], names: set[str], outputs: list[Place] | None, written: bool
    ) -> None:
        self.axes, self.names, self.outputs, self.written = axes, names, outputs, written

    def __eq__(self, other: object) -> bool:
        """Whether another trial came out alike."""
        return isinstance(other, Known) and vars(self) == vars(other)

    def learned(self, rules: Rules) -> dict[str, int | None]:
        return self.axes.get(rules.number, {})

    def confirm(self, module: RayLayer, slot: Slot, x: Tensor) -> None:
        """A layer with other than the batch's rows has to be one that the trial has seen."""
        if module.rays_name not in self.names:
            raise RowsError(
                f"{describe(module)} did not run when the rows of this model were tried out, and now has an input of "
                f"shape {tuple(x.shape)} where {slot.batch} rows are expected; give each its ray with `palora.rows`.",
                module.rays_name,
            )
