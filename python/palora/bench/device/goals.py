"""What the kernels should reach, and whether a file of results says that they do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palora.bench.device.timing import OFF, shares

Found = Mapping[str, Any]
"""A row of `table`."""
MANY = 1024  # rows from which a product is bound by multiplications


def table(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of all items as JSON types; columns that were measured as items of their own (torch.compile of the loop,
    cuDNN without benchmark) are in the row of their op or network."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    extra = []
    for name, result in content["times"].items():
        found = result.get("rows", [result] if "graph" in result else [])
        if name.startswith(("compiled ", "plain ")):
            extra += found
        else:
            rows |= {(row["name"], row["part"], row["precision"]): {**row} for row in found}
    for row in extra:
        key = row["name"], row["part"], row["precision"]
        if key in rows:
            for kind in ("graph", "eager", "peak", "notes"):
                rows[key][kind] = {**row[kind], **rows[key][kind]}
    return list(rows.values())


def numbers(row: Found) -> tuple[int, ...]:
    """(M, n, K, O, T, r) of a linear row, (C, O) of a convolution; empty elsewhere."""
    if row["name"].startswith("linear ("):
        return tuple(int(text) for text in re.findall(r"\d+", row["name"]))
    if row["name"].startswith("conv2d "):
        found = re.search(r"(\d+)→(\d+)", row["name"])
        return () if found is None else tuple(int(text) for text in found.groups())
    return ()


@dataclass(frozen=True)
class Goal:
    """``of`` gives a number for each row that the goal is about, and None for the others; ``least`` or ``most`` is what
    the number should be."""

    name: str
    of: Callable[[Found, Mapping[str, float]], float | None]
    most: float = math.inf
    least: float = -math.inf

    def met(self, number: float) -> bool:
        return self.least <= number <= self.most


def _linear(row: Found, part: str, of: Callable[[tuple[int, ...]], bool]) -> bool:
    shape = numbers(row)
    return row["part"] == part and len(shape) == 6 and of(shape)


def _wide(shape: tuple[int, ...], ranks: Sequence[int] = ()) -> bool:
    """Bound by multiplications; with one of these R = T r, if any are named."""
    M, n, K, O, T, r = shape
    return M * n >= MANY and min(K, O) >= 2048 and (T * r in ranks or not ranks)


def _small(shape: tuple[int, ...]) -> bool:
    return max(shape[2:4]) <= 1024


def _over(column: str, part: str, of: Callable[[tuple[int, ...]], bool], ours: bool = True) -> Any:
    """The time of ours over a column's, or the other way round."""

    def ratio(row: Found, rates: Mapping[str, float]) -> float | None:
        times = row["graph"]
        if not _linear(row, part, of) or "ours" not in times or column not in times:
            return None
        found: float = times["ours"] / times[column]
        return found if ours else 1 / found

    return ratio


def _convolution(row: Found, rates: Mapping[str, float]) -> float | None:
    """Over the faster of cuDNN's two."""
    shape, times = numbers(row), row["graph"]
    if len(shape) != 2 or min(shape) < 64 or "groups" in row["name"] or "ours" not in times:
        return None
    plain = [times[name] for name in ("floor", OFF) if name in times]
    return float(times["ours"] / min(plain)) if plain else None


def _bandwidth(row: Found, rates: Mapping[str, float]) -> float | None:
    if not _linear(row, FORWARD, _small) or "ours" not in row["graph"] or "bandwidth" not in rates:
        return None
    return shares(row, rates["bandwidth"], rates["products"])[0]


def _host(row: Found, rates: Mapping[str, float]) -> float | None:
    one = row["plan"] == "triton.factored"  # one launch
    return row["eager"]["ours"] * 1e6 if _linear(row, FORWARD, _small) and one and "ours" in row["eager"] else None


FORWARD, BOTH = "forward", "forward + backward"
GOALS = [
    Goal("fused forward, R ≤ 32, over the product", _over("floor", FORWARD, lambda s: _wide(s, range(33))), 1.06),
    Goal("fused forward, R = 64, over the product", _over("floor", FORWARD, lambda s: _wide(s, [64])), 1.10),
    Goal("large, forward: plain PyTorch in few passes over ours", _over("eager", FORWARD, _wide, False), least=1.2),
    Goal("large, forward + backward, over the product", _over("floor", BOTH, _wide), 1.10),
    Goal("large, forward + backward: plain PyTorch over ours", _over("eager", BOTH, _wide, False), least=1.25),
    Goal("64 requests over the product", _over("floor", FORWARD, lambda s: s[:2] == (64, 1)), 1.15),
    Goal("convolutions, C ≥ 64, over one cuDNN convolution", _convolution, 1.10),
    Goal("small layers, forward: share of the bandwidth of a copy", _bandwidth, least=0.7),
    Goal("small layers, forward: microseconds of a call of one launch", _host, 15.0),
]


def lines(content: Mapping[str, Any], precision: str = "bfloat16") -> Iterator[str]:
    """One line for each goal: met or not, by how many rows, and the worst of them."""
    rows = [row for row in table(content) if row["precision"] == precision]
    rates = content["times"].get(f"rates 0 {precision}", {})
    for goal in GOALS:
        found = [(number, row) for row in rows if (number := goal.of(row, rates)) is not None]
        yield _line(goal, [(number, f"{row['name']}, {row['part']}") for number, row in found])
    yield _line(Goal("64 requests: each its own λ over one λ for all", lambda *_: None, 1.05), _flat(rows))
    gains = [(r["gain"], r["name"]) for r in content["times"].values() if "gain" in r and r["plans"]]
    yield _line(Goal("untuned choices over tuned ones", lambda *_: None, 1.10), gains, share=0.9)


def _flat(rows: Sequence[Found]) -> list[tuple[float, str]]:
    """64 rows with a preference each, and with one for all."""
    times = {numbers(r)[:4]: r["graph"].get("ours") for r in rows if _linear(r, FORWARD, lambda s: True)}
    each, one = times.get((64, 1, 4096, 4096)), times.get((1, 64, 4096, 4096))
    return [(each / one, "forward")] if each and one else []


def _line(goal: Goal, found: Sequence[tuple[float, str]], share: float = 1.0) -> str:
    bound = f"≤ {goal.most:g}" if goal.most < math.inf else f"≥ {goal.least:g}"
    if not found:
        return f"not measured  {goal.name} ({bound})"
    met = sum(goal.met(number) for number, _ in found)
    number, name = max(found, key=lambda pair: pair[0] if goal.most < math.inf else -pair[0])
    said = "met         " if met >= share * len(found) else "NOT MET     "
    return f"{said}  {goal.name} ({bound}): {met} of {len(found)} rows, the worst {number:.2f}, {name}"
