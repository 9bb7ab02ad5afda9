"""Name → method. A new method is one file here and one line below."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from palora.errors import PaloraError
from palora.methods.autolambda import AutoLambda
from palora.methods.base import Method
from palora.methods.cagrad import CAGrad
from palora.methods.cosmos import COSMOS
from palora.methods.dwa import DynamicWeightAverage
from palora.methods.graddrop import GradDrop
from palora.methods.imtl import IMTL
from palora.methods.ls import LinearScalarisation
from palora.methods.mgda import MGDA
from palora.methods.nash import NashMTL
from palora.methods.palora import PaLoRA
from palora.methods.pamal import PaMaL
from palora.methods.pcgrad import PCGrad
from palora.methods.phn import PHNExact, PHNLinear
from palora.methods.rlw import RandomWeighting
from palora.methods.rotograd import RotoGrad
from palora.methods.stl import SingleTask
from palora.methods.uw import UncertaintyWeighting
from palora.suggest import unknown

METHODS: dict[str, type[Method]] = {
    "palora": PaLoRA,
    "ls": LinearScalarisation,
    "stl": SingleTask,
    "uw": UncertaintyWeighting,
    "rlw": RandomWeighting,
    "dwa": DynamicWeightAverage,
    "mgda": MGDA,
    "pcgrad": PCGrad,
    "imtl": IMTL,
    "cagrad": CAGrad,
    "nash": NashMTL,
    "graddrop": GradDrop,
    "rotograd": RotoGrad,
    "autolambda": AutoLambda,
    "pamal": PaMaL,
    "cosmos": COSMOS,
    "phn-ls": PHNLinear,
    "phn-epo": PHNExact,
}


def names() -> list[str]:
    """The names of all methods."""
    return list(METHODS)


def get(name: str) -> type[Method]:
    """The class of the method called `name`; an unknown name raises PaloraError that lists the names."""
    if name not in METHODS:
        raise PaloraError(unknown("method", name, METHODS))
    return METHODS[name]


def build(name: str, tasks: int, options: dict[str, Any] | None = None, seed: int = 0) -> Method:
    """The method `name` for `tasks` tasks, with `options` over the defaults of its ``Options``."""
    method = get(name)
    return method(tasks, make_options(method, options or {}), seed)


def refuse_idle(method: type[Method], options: Any, given: Iterable[str]) -> None:
    """PaloraError if one of the options that a user has `given` does nothing beside the others in `options`."""
    for field in dataclasses.fields(method.Options):
        if field.name not in given or getattr(options, field.name) in (None, False):
            continue
        for other, values in field.metadata.get("only", {}).items():
            found = getattr(options, other)
            if found not in values:
                raise PaloraError(
                    f"`{field.name}` does nothing with {other} '{found}', only with {' and '.join(map(str, values))}: "
                    "leave it out."
                )


def make_options(method: type[Method], values: dict[str, Any]) -> Any:
    """An instance of ``method.Options`` from `values`; a name it does not have raises PaloraError."""
    known = [field.name for field in dataclasses.fields(method.Options)]
    for key in values:
        if key not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise PaloraError(f"The method '{method.name}' has no option `{key}`: {has}.")
    return method.Options(**values)
