"""The methods, as parameters of tests; those that need a package of the extra `methods` are skipped without it."""

from __future__ import annotations

from typing import Any

import pytest

from palora import methods

NEEDS = {
    **dict.fromkeys(("graddrop", "imtl", "mgda", "pcgrad", "rlw", "uw"), ("torchjd",)),
    "cagrad": ("torchjd", "cvxpy"),
    "phn-epo": ("scipy",),
}


def every_method(but: tuple[str, ...] = ()) -> list[Any]:
    """The names of all methods, those in `but` aside."""
    return [case(name) for name in methods.names() if name not in but]


def case(name: str, value: Any = None, id: str | None = None) -> Any:
    """`value` (default: `name`) as a parameter, with what the method `name` needs."""
    return pytest.param(name if value is None else value, marks=pytest.mark.needs(*NEEDS.get(name, ())), id=id or name)
