"""The matrix products of a kernel, read from the compiler's intermediate code."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DOT = re.compile(r"= tt\.dot (%[\w#]+), (%[\w#]+), .*? : tensor<([\dx]+)x(\w+)[,>].*? \* tensor<([\dx]+)x(\w+)[,>]")
_LOC_USE = re.compile(r"loc\((#loc\d*)\)\s*$")
_LOC_DEFINITION = re.compile(r"^(#loc\d*) = loc\((.*)\)\s*$", re.MULTILINE)
_FILE_AND_LINE = re.compile(r'"([^"]+)":(\d+):(\d+)')

UNKNOWN = "an unknown place"


@dataclass(frozen=True)
class Dot:
    """(m, k) · (k, n). ``loop`` numbers the innermost loop around it, -1 for none; ``place`` is "file:line:column"."""

    m: int
    n: int
    k: int
    dtype: str
    tf32: bool
    place: str
    loop: int
    operands: tuple[str, str]

    @property
    def macs(self) -> int:
        return self.m * self.n * self.k

    @property
    def needs_tensor_cores(self) -> bool:
        return self.dtype in ("bf16", "f16") or self.tf32


def dots(ttir: str) -> list[Dot]:
    """Every product of the kernel as the front end wrote it down."""
    places = _places(ttir)
    found: list[Dot] = []
    loops: list[tuple[int, int]] = []  # (number, depth of braces outside it)
    depth = count = 0
    for line in ttir.splitlines():
        code = line.split(" loc(")[0]
        if re.search(r"\bscf\.(for|while)\b", code):
            loops.append((count, depth))
            count += 1
        depth += code.count("{") - code.count("}")
        while loops and depth <= loops[-1][1]:
            loops.pop()
        match = _DOT.search(line)
        if match is None:
            continue
        a, b, left, dtype, right, _ = match.groups()
        *batch, m, k = (int(size) for size in left.split("x"))
        n = int(right.split("x")[-1])
        for size in batch:
            m *= size
        inside = loops[-1][0] if loops else -1
        found.append(Dot(m, n, k, dtype, "inputPrecision = tf32" in line, _place(line, places), inside, (a, b)))
    return found


def places_without_tensor_cores(ttgir: str) -> set[str]:
    """Where products stand that the compiler spreads over the threads (a "blocked" layout): fused multiply-adds."""
    places = _places(ttgir)
    encodings = dict(re.findall(r"^(#\w+) = #ttg\.(\w+)<", ttgir, re.MULTILINE))
    found = set()
    for line in ttgir.splitlines():
        if "= tt.dot " not in line:
            continue
        parents = re.findall(r"parent = (#\w+)", line)
        if any(encodings.get(parent) == "blocked" for parent in parents):
            found.add(_place(line, places))
    return found


def _places(text: str) -> dict[str, str]:
    return dict(_LOC_DEFINITION.findall(text))


def _place(line: str, definitions: dict[str, str]) -> str:
    """The file, line and column behind the ``loc(#loc7)`` of a line; names and call sites are looked through."""
    use = _LOC_USE.search(line)
    body = definitions.get(use.group(1), "") if use else line
    for _ in range(10):
        match = _FILE_AND_LINE.search(body)
        if match:
            path, row, column = match.groups()
            return f"{path.rsplit('/', 1)[-1]}:{row}:{column}"
        alias = re.search(r"#loc\d*", body)
        if alias is None:
            break
        body = definitions.get(alias.group(), "")
    return UNKNOWN
