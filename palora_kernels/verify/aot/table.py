"""The findings in columns of text."""

from __future__ import annotations

from itertools import count

from palora_kernels.verify.aot.building import Finding
from palora_kernels.verify.aot.targets import TARGETS

HEADER = ("", "variant", "target", "reg", "spill", "shared", "of", "tensor", "load", "code", "tile", "floor", "×")
NOTE = """\
* configuration that is chosen without tuning; ! faults, listed below
reg: registers per thread; spill: instructions that touch spilled registers (AMD: spilled registers)
shared: bytes per block, of what the target has; tensor: tensor-core instructions in the code
load: bytes of the widest global load of one thread, T: tiles fetched by TMA
code: instructions; tile: what a warp issues for a tile whose reduction is 1024 long; floor: its products and 16-byte
loads alone; ×: tile / floor"""


def lines(findings: list[Finding], faults: dict[tuple[str, str], list[str]]) -> list[str]:
    rows = [HEADER, *(_row(f, (f.variant, f.target) in faults) for f in findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    left = (0, 1, 2, 7)
    text = [
        " ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, cell, width in zip(count(), row, widths))
        for row in rows
    ]
    return [line.rstrip() for line in text] + ["", *NOTE.splitlines()]


def _row(finding: Finding, faulty: bool) -> tuple[str, ...]:
    mark = ("*" if finding.default else " ") + ("!" if faulty else "")
    if finding.error:
        return (mark, finding.variant, finding.target, *[""] * (len(HEADER) - 3))
    tensor = " ".join(f"{count} {kind}" for kind, count in (finding.tensor or {}).items())
    load = f"{finding.widest_load}" + ("T" if finding.bulk_copies else "")
    tile, floor = finding.per_tile, finding.floor
    return (
        mark,
        finding.variant,
        finding.target,
        str(finding.registers),
        str(finding.spills),
        str(finding.shared),
        str(TARGETS[finding.target].shared),
        tensor or "-",
        load,
        str(finding.instructions),
        "-" if tile is None else str(tile),
        "-" if floor is None else str(floor),
        "-" if tile is None or not floor else f"{tile / floor:.1f}",
    )
