"""NVIDIA's machine code, through the disassembler that the Triton wheel brings."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from palora_kernels.verify.aot.code import Code

_LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", re.MULTILINE)
_LABEL = re.compile(r"^(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")
# Modifier of the opcode → bytes per thread. A load without one moves 32 bits.
_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
# mma.sync: m, n, k of one warp. Wider opcodes name theirs.
_MMA = {"884": 8 * 8 * 4, "1684": 16 * 8 * 4, "1688": 16 * 8 * 8, "16816": 16 * 8 * 16, "16832": 16 * 8 * 32}


def read(compiled: Any) -> Code:
    """Disassemble the cubin of a triton.compiler.CompiledKernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        text = _run("nvdisasm", "-c", file.name)
    code = parse(text)
    code.registers = int(re.findall(r"REG:(\d+)", usage)[-1])
    # ptxas may reserve a frame that no instruction touches.
    code.stack = int(re.findall(r"STACK:(\d+)", usage)[-1]) if touches_stack(text) else 0
    ptx = compiled.asm["ptx"]
    # Counted in PTX, where every generation has its own name; the machine code calls several of them HMMA.
    code.tensor = {
        "mma": len(re.findall(r"\bmma\.sync\b", ptx)),
        "wgmma": len(re.findall(r"\bwgmma\.mma_async\b", ptx)),
        "tcgen05": len(re.findall(r"\btcgen05\.mma\b", ptx)),
    }
    return code


def parse(text: str) -> Code:
    """From the listing of ``nvdisasm -c``; registers, stack and tensor are left for the caller."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    branches: list[tuple[int, str]] = []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label.group(1)] = len(instructions)
        elif match := _LINE.match(line):
            opcode, operands = match.groups()
            if opcode.split(".")[0] == "BRA" and (target := _TARGET.search(operands)):
                branches.append((len(instructions), target.group(1)))
            instructions.append(opcode)
    while instructions and instructions[-1] in ("NOP", "BRA"):
        instructions.pop()  # padding behind EXIT
    jumps = [(at, labels[name]) for at, name in branches if at < len(instructions) and name in labels]
    return Code(
        instructions,
        jumps,
        registers=0,
        spills=sum(op.split(".")[0] in ("STL", "LDL") for op in instructions),
        stack=0,
        tensor={},
        widest_load=max((_width(op) for op in instructions), default=0),
        bulk_copies=sum(op.split(".")[0] in ("UBLKCP", "UTMALDG") for op in instructions),
        macs={op: _macs(op) for op in set(instructions) if _is_product(op)},
    )


def touches_stack(text: str) -> bool:
    """Whether an instruction uses R1, the stack pointer, for more than setting it up."""
    for _, operands in (match.groups() for match in map(_LINE.match, text.splitlines()) if match):
        if re.search(r"\bR1\b", re.sub(r"^\s*R1, (c\[|R1\b)", "", operands)):
            return True
    return False


def _run(tool: str, *arguments: str) -> str:
    from triton.backends import nvidia

    path = Path(nvidia.__file__).parent / "bin" / tool
    return subprocess.run([str(path), *arguments], check=True, capture_output=True, text=True).stdout


def _width(opcode: str) -> int:
    name, *modifiers = opcode.split(".")
    if name not in ("LDG", "LDGSTS"):
        return 0
    # The last fitting modifier is the width: LTC128B in front of it is a hint for the cache.
    return next((_WIDTHS[m] for m in reversed(modifiers) if m in _WIDTHS), 4)


def _is_product(opcode: str) -> bool:
    return bool(re.match(r"(FFMA2?|[HIDQ]G?MMA|UTC\w*MMA)\b", opcode))


def _macs(opcode: str) -> int | None:
    name, *modifiers = opcode.split(".")
    if name in ("FFMA", "FFMA2"):
        return 32 if name == "FFMA" else 64
    if name.startswith("UTC"):
        return None  # one thread starts it; the shape is in a descriptor
    for modifier in modifiers:
        if modifier in _MMA:
            return _MMA[modifier]
        if shape := re.fullmatch(r"(\d+)x(\d+)x(\d+)", modifier):
            m, n, k = (int(size) for size in shape.groups())
            return m * n * k // 4  # four warps together
    return None
