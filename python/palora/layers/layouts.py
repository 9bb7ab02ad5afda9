"""Where the batch lies in the input of a layer, when it is not dimension 0 with each sample's rows together."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from torch import Tensor

Where = int | Literal["inner"]


def check_where(label: str, where: Any) -> None:
    if where != "inner" and (not isinstance(where, int) or isinstance(where, bool) or where < 0):
        raise ValueError(f"`{label}` should give a dimension (0, 1, ...) or 'inner'. Found {where!r}.")


class Layout(NamedTuple):
    """A batch of ``batch`` rows in dimension ``where``; "inner": in dimension 0 of k*batch rows, running fastest."""

    where: Where
    batch: int

    def batch_first(self, x: Tensor, who: str) -> Tensor:
        """The same values, ray-major in dimension 0."""
        where, batch = self
        if where == "inner":
            if batch == 0 or x.shape[0] % batch:
                raise ValueError(
                    f"{who} expected k*{batch} rows, the batch running fastest (rows='inner' of palora.adapt). Found "
                    f"an input of shape {tuple(x.shape)}."
                )
            return x.unflatten(0, (x.shape[0] // batch, batch)).transpose(0, 1).flatten(0, 1)
        if where >= x.dim() - 1 or x.shape[where] != batch:
            raise ValueError(
                f"{who} expected its batch of {batch} rows in dimension {where} (rows={where} of palora.adapt). Found "
                f"an input of shape {tuple(x.shape)}."
            )
        return x.movedim(where, 0)

    def restored(self, y: Tensor) -> Tensor:
        """A layer's output, back in the layout that its input had."""
        where, batch = self
        if where == "inner":
            return y.unflatten(0, (batch, y.shape[0] // batch)).transpose(0, 1).flatten(0, 1)
        return y.movedim(0, where)


class Unbatched(NamedTuple):
    """One sample without a dimension of the batch, as torch's layers take it."""

    def restored(self, y: Tensor) -> Tensor:
        return y.squeeze(0)
