"""`palora recipes`: what can be trained, and with which settings."""

from __future__ import annotations

import textwrap
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from palora.recipes import Recipe


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="Show the settings of this one and where they come from.")
    ] = None,
) -> None:
    """List the recipes with the time they take, or show one."""
    from palora import methods
    from palora.cli.console import say, table
    from palora.recipes import MACHINE, RECIPES, get

    if name is not None:
        show(get(name))
        return
    table(["recipe", "", "time"], [[recipe.name, recipe.summary, recipe.takes] for recipe in RECIPES.values()])
    say()
    say(f"time: training and evaluation of the recipe's own method on {MACHINE};")
    say("estimated: from the seconds that its steps and its evaluation took there.")
    say()
    table(["method", ""], [[method.name, method.summary] for method in methods.METHODS.values()])
    say()
    say("palora train RECIPE [--method METHOD]; palora recipes RECIPE shows the settings")


def show(recipe: Recipe) -> None:
    """All settings of a recipe, those of each method where they differ from its defaults."""
    from palora import methods
    from palora.cli.console import say, table

    say(f"{recipe.name}: {recipe.summary}")
    for line in textwrap.wrap(recipe.source, 110):
        say(line)
    say()
    plain = [f.name for f in fields(recipe) if f.name not in ("name", "summary", "source", "method_options")]
    table(["setting", ""], [[name, _text(getattr(recipe, name))] for name in plain])
    say()
    rows = []
    for method in methods.METHODS.values():
        own = recipe.method_options.get(method.name, {})
        options = recipe.configure(method=method.name).method_options
        if own or method.name == recipe.method:
            rows.append([method.name, ", ".join(f"{key} = {_text(value)}" for key, value in options.items())])
    table(["method", "options (of the others: their defaults)"], rows)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_text(item)}" for key, item in value.items()) or "-"
    if isinstance(value, tuple):
        return "(" + ", ".join(_text(item) for item in value) + ")" if value else "-"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
