"""`palora recipes`: what can be trained."""

from __future__ import annotations


def recipes() -> None:
    """List the recipes."""
    from palora import methods
    from palora.cli.console import say, table
    from palora.recipes import RECIPES

    rows = [[recipe.name, recipe.summary, recipe.takes or "not measured"] for recipe in RECIPES.values()]
    table(["recipe", "", "time"], rows)
    say()
    table(["method", ""], [[method.name, method.summary] for method in methods.METHODS.values()])
    say()
    say("palora train RECIPE [--method METHOD]")
