"""Options that do nothing beside others are refused: who gives one expects an effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from palora.cli.flags import flag
from palora.errors import PaloraError

if TYPE_CHECKING:
    from palora.recipes import Recipe


def refuse_idle_settings(recipe: Recipe, method: str | None, given: Iterable[str]) -> None:
    """PaloraError if one of the settings of a run that were `given` does nothing for the recipe and the method."""
    from palora import methods

    chosen = methods.get(method or recipe.method)
    one_point = chosen.evaluation_rays is methods.Method.evaluation_rays
    for name in ("divisions", "ray_chunk"):
        if name in given and one_point:
            raise PaloraError(f"{flag(name)} does nothing for '{chosen.name}', which has one ray: leave it out.")
    if "divisions" in given and recipe.grid != "lattice":
        raise PaloraError(f"--divisions does nothing for {recipe.name}, whose grid is '{recipe.grid}': leave it out.")


def refuse_together(given: Mapping[str, Any], alone: str, beside: Iterable[str] = (), why: str = "") -> None:
    """PaloraError if beside the option `alone` another is given (neither None nor False nor empty) than `beside`."""
    others = [name for name, value in given.items() if value not in (None, False, [], ()) and name != alone]
    for name in others:
        if name not in beside:
            reason = why or "that takes no other options but " + (", ".join(map(flag, beside)) or "none")
            raise PaloraError(f"{flag(name)} does nothing with {flag(alone)}, {reason}: leave it out.")
