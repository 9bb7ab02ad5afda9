"""A miscompilation that shows in PTX."""

from __future__ import annotations

import re

_WIDE = re.compile(r"mul\.wide\.u32\s+(%rd\d+), %r\d+, (-?\d+);")
_OR = re.compile(r"or\.b64\s+(%rd\d+), (%rd\d+), (%rd\d+);")
_UPPER = re.compile(r"mov\.b64\s+\{\s*(?:_|%r\d+), %r\d+\s*\}, (%rd\d+);")
_THREADS = 10  # bits of the number of a thread in its block


def mixed_halves(ptx: str) -> int:
    """How many 64-bit registers hold two 32-bit numbers of which the lower may run into the upper.

    LLVM packs a vector of two numbers as lower | upper << 32. Where the lower is shifted, is itself never used, and is
    said not to overflow, the LLVM of Triton 3.6 shifts it in 64 bits: tid << 31 then puts tid >> 1 into the upper
    number, an address. `pull_low_rank` had it, and was wrong on an H100; 3.7.1 and 3.8 compile that source rightly.
    """
    wide = {name for name, factor in _WIDE.findall(ptx) if (int(factor) % 2**32).bit_length() - 1 + _THREADS > 32}
    packed = {name for name, *parts in _OR.findall(ptx) if wide.intersection(parts)}
    return len(packed.intersection(_UPPER.findall(ptx)))
