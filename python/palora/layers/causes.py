"""What `palora.check` says of a deviation: the probable cause and the remedy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palora.layers.comparing import close
from palora.layers.recording import Event
from palora.layers.refusals import UnsupportedModuleError
from palora.layers.routing import RowsError

MIXED = "Rows of the batch see each other there, or are put elsewhere: statistics, softmax, attention or an index over "
MIXED += "dimension 0."
USE_ONE_RAY = "Use one ray at a time."
SAY_WHOSE = "Give rows that are chosen to rays with `palora.rows`, say where the batch is with `rows`, `expand` and "
SAY_WHOSE += "`keep` of palora.adapt, or use one ray at a time."


class Parted(Exception):
    """Where passes part first, and why."""

    def __init__(self, part: str, module: str, cause: str, remedy: str, difference: float = float("nan")) -> None:
        super().__init__(cause)
        self.part, self.module, self.cause, self.remedy, self.difference = part, module, cause, remedy, difference


def said(error: Exception, remedy: str = USE_ONE_RAY) -> tuple[str, str]:
    """(cause, remedy) of an error; palora's own sentences end with the remedy."""
    text = str(error).strip().split("\n")[0]
    if isinstance(error, (RowsError, UnsupportedModuleError)) and "; " in text:
        cause, _, found = text.rpartition("; ")
        return f"{cause}.", found[0].upper() + found[1:]
    plain = isinstance(error, (RowsError, TypeError, ValueError))
    text = text if plain else f"{type(error).__name__}: {text}"
    return text if text.endswith(".") else f"{text}.", remedy


def likely(model: nn.Module, name: str, event: Event | None) -> tuple[str, str]:
    """(cause, remedy) of the first event at which stacked rays are not the single ones."""
    if event is None:
        return "Something after the last module treats the rows of all rays together.", SAY_WHOSE
    if event.began:
        parent = event.parent or type(model).__name__
        return f"What the forward of {parent!r} gives to it is not each ray's own already. {MIXED}", SAY_WHOSE
    kind = type(dict(model.named_modules())[name]).__name__
    return f"This {kind} is given each ray's rows and gives something else. {MIXED}", SAY_WHOSE


def reduced(number: Tensor, singles: list[Tensor]) -> tuple[str, str]:
    """(cause, remedy) of one number that all rays have a part in."""
    each = torch.stack(singles)
    found = "the mean" if close(number, each.mean(0)) else "the sum" if close(number, each.sum(0)) else "none"
    return (
        f"An output is one number for all rays, {found} of those that rays give alone: it is taken over the rows of "
        "every ray, and no preference weighs it.",
        "Let it return a value a row (reduction='none') and take palora.split of that, or use one ray at a time.",
    )
