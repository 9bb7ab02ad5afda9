"""Files as somebody might damage them, by accident or on purpose: strategies of hypothesis, and what must hold then."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from palora.errors import PaloraError

# JSON that Python's writer would not write: each replaces a value in the text.
RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 2000 + "0" + "}" * 2000,
    '"\\ud800"',
    '"' + "x" * 100_000 + '"',
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    2,
    1.5,
    -1e308,
    10**9,
    10**12,
    10**400,
    "",
    "nan",
    "x",
    "../../etc",
    [],
    [[]],
    [1, 2, 3],
    {},
    {"a": 1},
    [[[[[1]]]]],
)
_MARK = "replaced-by-what-no-writer-writes"


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with bytes flipped, cut off, put in, doubled, or with a run of zeros; or emptied."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(("flip", "flip", "cut", "zeros", "insert", "double", "head", "empty")))
        if kind == "flip":
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "head":  # where formats say what follows
            data[at % min(len(data), 128)] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "zeros":
            length = min(64, len(data) - at)
            data[at : at + length] = bytes(length)
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "double":
            data[at:at] = data[at : at + 4096]
        else:
            data.clear()
    return bytes(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value, the whole left out."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    found = []
    for key in keys:
        found += [(*path, key), *places(value[key], (*path, key))]
    return found


@st.composite
def damaged_json(draw: st.DrawFn, text: str) -> bytes:
    """The JSON `text` with a value replaced by another, a key left out, renamed or put in; or with damaged bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged_bytes(text.encode()))
    value = json.loads(text)
    raw = draw(st.sampled_from(RAW))
    for _ in range(draw(st.integers(1, 2))):
        known = places(value)
        if not known:
            break
        depth = draw(st.integers(1, max(map(len, known))))  # else nearly all of them would be numbers of long lists
        *above, key = draw(st.sampled_from([path for path in known if len(path) <= depth]))
        holder = value
        for step in above:
            holder = holder[step]
        kind = draw(st.sampled_from(("value", "value", "value", "raw", "drop", "rename", "extra")))
        if kind == "value":
            holder[key] = draw(st.sampled_from(VALUES))
        elif kind == "raw":
            holder[key] = _MARK
        elif kind == "drop":
            del holder[key]
        elif isinstance(holder, dict):
            holder["extra" if kind == "extra" else f"{key}2"] = holder[key] if kind == "extra" else holder.pop(key)
        else:
            holder.append(holder[key])
    return json.dumps(value).replace(f'"{_MARK}"', raw).encode()


def answered(read: Callable[[], Any], errors: tuple[type[Exception], ...] = (PaloraError,)) -> Any:
    """What `read` returns, or the error if it is one of `errors`, in one sentence; quickly, and in little memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = read()
    except errors as error:
        found = error
        said = str(error)
        assert said.strip()
        assert len(said) < 1500, said[:1500]
        assert "\n" not in said, said
        assert "unexpected" not in said, said
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert time.monotonic() - began < 20
    assert grown < 2**19 or os.uname().sysname == "Darwin", f"{grown / 2**20:.1f} GiB"  # kilobytes: half a GiB
    return found
