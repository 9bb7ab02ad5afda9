"""AMD's machine code, as Triton's assembler text."""

from __future__ import annotations

import re
from typing import Any

from palora_kernels.verify.aot.code import Code

_LINE = re.compile(r"^\t([a-z]\w+)(.*)$")
_LABEL = re.compile(r"^(\.LBB\d+_\d+):")
_WIDTHS = {"ubyte": 1, "sbyte": 1, "ushort": 2, "sshort": 2, "short": 2, "dword": 4, "dwordx2": 8, "dwordx3": 12}
_WIDTHS["dwordx4"] = 16


def read(compiled: Any) -> Code:
    return parse(compiled.asm["amdgcn"])


def parse(text: str) -> Code:
    """From the assembler text and the metadata at its end."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    branches: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.startswith("\t.section") and instructions:
            break
        if label := _LABEL.match(line):
            labels[label.group(1)] = len(instructions)
        elif match := _LINE.match(line):
            opcode, operands = match.groups()
            target = re.search(r"\.LBB\d+_\d+", operands)
            if opcode.startswith(("s_cbranch", "s_branch")) and target:
                branches.append((len(instructions), target.group()))
            instructions.append(opcode)
    return Code(
        instructions,
        jumps=[(at, labels[name]) for at, name in branches if name in labels],
        registers=_entry(text, "vgpr_count"),
        # Scalar registers spill into lanes of a vector register; only vector registers spill to memory.
        spills=_entry(text, "vgpr_spill_count"),
        stack=_entry(text, "private_segment_fixed_size"),
        tensor={"mfma": sum(op.startswith("v_mfma") for op in instructions)},
        widest_load=max((_width(op) for op in instructions), default=0),
        bulk_copies=0,
        macs={op: macs for op in set(instructions) if (macs := _macs(op)) is not None},
    )


def _entry(text: str, name: str) -> int:
    return int(re.findall(rf"\.{name}:\s+(\d+)", text)[-1])


def _width(opcode: str) -> int:
    match = re.match(r"(?:global|buffer|flat)_load_(?:lds_)?(\w+)", opcode)
    if match is None:
        return 0
    kind = match.group(1)
    return next((_WIDTHS[name] for name in sorted(_WIDTHS, key=len, reverse=True) if kind.startswith(name)), 0)


def _macs(opcode: str) -> int | None:
    if match := re.match(r"v_mfma_\w+?_(\d+)x(\d+)x(\d+)(?:_(\d+)b)?", opcode):
        m, n, k, blocks = (int(size or 1) for size in match.groups())
        return m * n * k * blocks
    if re.match(r"v_(fma|fmac|mac|mad)_f32", opcode):
        return 64
    return 128 if opcode.startswith("v_pk_fma_f32") else None
