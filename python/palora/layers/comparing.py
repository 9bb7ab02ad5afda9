"""Two batches stacked against each alone: where the two part, and what that says of the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palora.trees import map_tensors

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


class Seen(NamedTuple):
    """The rows of one call of an adapted layer."""

    name: str
    who: str
    x: Tensor  # ray-major, if a layout was declared
    by_hand: Tensor | None  # the ray of every row, if given by hand
    chosen: bool  # whether its number of rows depends on values


class Problem(NamedTuple):
    """What is wrong, in one sentence with the remedy.

    Attributes:
        by_value: seen in the values alone, which rounding may have changed.
        by_error: the model raised an error of its own.
    """

    text: str
    by_value: bool = False
    by_error: bool = False
    name: str = ""


def largest(tensors: Iterable[Tensor]) -> float:
    """The largest finite absolute value."""
    floats = (t.detach() for t in tensors if t.layout is torch.strided and t.numel() and t.is_floating_point())
    sizes = [t.abs().nan_to_num(0.0, 0.0, 0.0).max().item() for t in floats]
    return max(sizes, default=0.0)


def dense(tensor: Tensor) -> Tensor:
    """The same values in a plain tensor; ragged ones padded with zeros."""
    if tensor.is_nested:
        return torch.nested.to_padded_tensor(tensor, 0.0)
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def close(found: Tensor, expected: Tensor, among: float = 0.0) -> bool:
    """Equal but for rounding: relative to the largest value, or to a thousandth of ``among``, the largest of all that
    is compared; what cancels to nothing is noise. NaN is equal to NaN."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    found, expected = dense(found), dense(expected)
    if found.numel() == 0 or not (found.is_floating_point() or found.is_complex()):
        return torch.equal(found, expected)
    scale = max(largest([expected]), 1e-3 * among, 1e-30)
    tolerance = _TOLERANCE.get(found.dtype, 1e-6) * scale
    return torch.allclose(found, expected, rtol=0.0, atol=tolerance, equal_nan=True)


def changed_unseen(x: Tensor, old: Tensor) -> bool:
    """Whether values have changed and the version has not: through ``.data``, or NumPy's view of the memory."""
    if not x.is_inference() and x._version > 0:
        return False
    return not (torch.equal(x.isnan(), old.isnan()) and torch.equal(x.nan_to_num(), old.nan_to_num()))


def compare(stacked: list[Seen], first: list[Seen], second: list[Seen], n: int, complete: bool) -> Problem | None:
    """The first call of an adapted layer, in the order of the stacked pass, whose rows are not those of the single
    passes; ``complete``: the stacked pass ran to its end."""
    alone = _by_name(first), _by_name(second)
    among = largest(seen.x for seen in first)
    together = _by_name(stacked)
    met: dict[str, int] = {}
    for seen in stacked:
        turn = met[seen.name] = met.get(seen.name, -1) + 1
        calls = [single.get(seen.name, []) for single in alone]
        if any(turn >= len(call) for call in calls) or (complete and len(together[seen.name]) != len(calls[0])):
            return _varying(seen)
        if len(calls[0]) > 1 and seen.x.shape == calls[0][turn].x.shape:
            return _varying(seen)
        problem = _part(seen, calls[0][turn], calls[1][turn], n, among)
        if problem is not None:
            return problem
    for single in alone if complete else ():
        for name, calls_of in single.items():
            if len(calls_of) != met.get(name, -1) + 1:
                return _varying(calls_of[0])
    return None


def _by_name(calls: list[Seen]) -> dict[str, list[Seen]]:
    found: dict[str, list[Seen]] = {}
    for seen in calls:
        found.setdefault(seen.name, []).append(seen)
    return found


def _varying(seen: Seen) -> Problem:
    return Problem(
        f"{seen.who} runs more often for some batches than for others (row by row, or for rows chosen by their "
        "values), so rows of several rays cannot pass it together; give each its ray with `palora.rows`, or use one "
        "ray at a time.",
        name=seen.name,
    )


def _part(seen: Seen, first: Seen, second: Seen, n: int, among: float) -> Problem | None:
    x, a, b = seen.x, first.x, second.x
    if seen.by_hand is not None:
        return _by_hand(seen, a, b, among)
    if seen.chosen or a.shape != b.shape:
        return Problem(
            f"{seen.who} sees rows that were chosen by their values (gathered or packed), so which ray a row belongs "
            "to is not known; give each its ray with `palora.rows`, or use one ray at a time.",
            name=seen.name,
        )
    if close(x, torch.cat([a, b]), among) or (n == 1 and close(x, torch.stack([a, b]), among)):
        return None  # a batch of one may have lost its dimension on the way
    name = seen.name or "*"
    for d in range(1, x.dim() - 1):
        if close(x, torch.cat([a, b], dim=d), among):
            return Problem(
                f"{seen.who} sees the batch in dimension {d}, not in dimension 0, in an input of shape "
                f"{tuple(x.shape)}; say so with rows={{{name!r}: {d}}} of palora.adapt.",
                name=seen.name,
            )
    if n and a.shape[0] % n == 0 and a.shape[0] > n:
        parts = [part.unflatten(0, (part.shape[0] // n, n)) for part in (a, b)]
        if close(x, torch.cat(parts, dim=1).flatten(0, 1), among):
            return Problem(
                f"{seen.who} sees the batch repeated {a.shape[0] // n} times (token by token, or view by view) where "
                f"each sample's rows should lie together; say so with rows={{{name!r}: 'inner'}} of palora.adapt.",
                name=seen.name,
            )
    if x.shape == a.shape:
        return Problem(
            f"{seen.who} sees rows that are made inside the model and do not grow with the batch, in an input of "
            f"shape {tuple(x.shape)}, so they belong to no ray; leave it unadapted with exclude=[{name!r}], or expand "
            "them to a row a sample.",
            name=seen.name,
        )
    return Problem(
        f"{seen.who} does not see each ray's samples as alone: something before it mixes the rows of the batch or puts "
        "them in another order (statistics, attention or an index over dimension 0); use one ray at a time.",
        by_value=x.shape[0] == a.shape[0] + b.shape[0],
        name=seen.name,
    )


def _by_hand(seen: Seen, a: Tensor, b: Tensor, among: float) -> Problem | None:
    assert seen.by_hand is not None
    index = seen.by_hand
    if len(index) and seen.x.shape[0] != len(index):
        index = index.repeat_interleave(seen.x.shape[0] // len(index))
    if close(seen.x[index == 0], a, among) and close(seen.x[index == 1], b, among):
        return None
    return Problem(
        f"{seen.who} does not see the rows that `palora.rows` gives to a ray as alone: the index is not right, or "
        "something before it mixes rows.",
        by_value=True,
        name=seen.name,
    )


def leaves(value: Any) -> list[Tensor]:
    """The tensors of an output, in order, through containers of all kinds."""
    found: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(noted, value)
    return found
