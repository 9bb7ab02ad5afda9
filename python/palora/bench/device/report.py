"""What `make gpu-check` prints of its results: what is wrong first, then the goals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from palora.bench.device import goals
from palora.bench.device.timing import shares

Content = Mapping[str, Any]


def complaints(name: str, result: Content) -> list[str]:
    """One line for everything that is wrong with a job's values."""
    if "lost" in result:
        return [f"LOST {name}: {result['lost']}"]
    lines = []
    for wrong in result["wrong"]:
        tiles = ", ".join(f"{launch.split()[0]} {tile}" for launch, tile in wrong["tiles"].items())
        what = wrong["note"] or f"{wrong['worst']}, error {wrong['error']:.1e}"
        lines.append(f"WRONG {name}: {what} [{tiles or 'chosen tiles'}]")
    return lines


def lost(result: Content) -> bool:
    """Whether a job has no result, or a timed item lacks a column, because a process died, raised or did not answer."""
    rows = result.get("rows", [result])
    return "lost" in result or any(n.startswith("lost") for r in rows if "graph" in r for n in r["notes"].values())


def lines_of(name: str, result: Content, rates: Content | None = None) -> list[str]:
    """A timed item as text: microseconds under graphs, in brackets one by one; shares of ``rates``, if they are known:
    what ours moves and multiplies at least, of what the device could have in that time."""
    if "lost" in result:
        return [f"LOST {name}: {result['lost']}"]
    if "bandwidth" in result:
        return [f"{name}: copy {result['bandwidth'] / 1e9:.0f} GB/s, matmul {result['products'] / 1e12:.1f} TFLOP/s"]
    if "gain" in result:
        plans = ", ".join(dict.fromkeys(result["plans"].values()))
        notes = [f"  {note}" for note in result["notes"][:3]]
        return [f"tuned {result['name']}: {plans or 'nothing'}, {result['gain']:.2f}×", *notes]
    lines: list[str] = []
    for row in result.get("rows", [result]):
        lines += _of_row(row, rates)
    return lines


def _of_row(row: Content, rates: Content | None) -> Iterator[str]:
    head = f"{row['name']}, {row['part']}, {row['precision']} [{row['plan']}]"
    bad = [f"{column} {error:.1e}" for column, error in row["errors"].items() if not error <= row["tolerance"]]
    if bad:
        yield f"WRONG {head}: {', '.join(bad)} > {row['tolerance']:.0e}"
    for column, note in row["notes"].items():
        if note.startswith("lost"):
            yield f"LOST {head}: {column}: {note}"
    cells = [
        f"{column.removeprefix('triton.')} {seconds * 1e6:.0f}"
        + (f" ({row['eager'][column] * 1e6:.0f})" if column in row["eager"] else "")
        for column, seconds in row["graph"].items()
    ]
    if rates and "bandwidth" in rates and row["least"] and "ours" in row["graph"]:
        moved, multiplied = shares(row, rates["bandwidth"], rates["products"])
        cells.append(f"{moved:.0%} of the bandwidth, {multiplied:.0%} of the products")
    if row["peak"]:
        cells.append("peak MiB " + " / ".join(f"{name} {size / 2**20:.0f}" for name, size in row["peak"].items()))
    yield f"{head}: " + ", ".join(cells)
    for column, note in row["notes"].items():
        if not note.startswith("lost"):
            yield f"  {column}: {note}"


def show(content: Content) -> int:
    """Print everything that is wrong, then how much was right, then the goals. Returns how many things are wrong."""
    wrong = [line for name, result in content["values"].items() for line in complaints(name, result)]
    for name, result in content["times"].items():
        wrong += [line for line in lines_of(name, result) if line.startswith(("WRONG", "LOST"))]
    print(f"\n{len(wrong)} wrong")
    for line in wrong[:40]:
        print(line[:300])
    right = [r for r in content["values"].values() if "lost" not in r and not r["wrong"]]
    rounds = sum(r["rounds"] for r in right)
    print(f"{len(right)} of {len(content['values'])} jobs right, {rounds} sets of tiles; {len(content['times'])} timed")
    for line in goals.lines(content):
        print(line)
    return len(wrong)
