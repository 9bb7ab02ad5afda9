"""What is common to the machine code of both makers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Code:
    """A disassembled kernel.

    instructions   opcodes with their modifiers, in order of address
    jumps          (from, to): indices of a branch and of the instruction it goes to
    macs           multiply-accumulates of one warp by instruction, by opcode; None where the opcode does not tell
    """

    instructions: list[str]
    jumps: list[tuple[int, int]]
    registers: int
    spills: int
    stack: int
    tensor: dict[str, int]
    widest_load: int
    bulk_copies: int
    macs: dict[str, int | None] = field(default_factory=dict)

    def loops(self) -> list[tuple[int, int]]:
        """(first, last) instruction of every loop: from the target of a backward jump to the jump."""
        return [(to, at) for at, to in self.jumps if to < at]
