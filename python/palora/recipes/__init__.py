"""One small file per experiment. A new recipe is one file and one line here."""

from __future__ import annotations

from palora.errors import PaloraError
from palora.recipes import (
    census,
    cityscapes,
    fashion_and_mnist,
    multi_fashion,
    multimnist,
    multimnist3,
    multimnist_small,
    nyuv2,
    nyuv2_quarter,
    sarcos,
    sarcos_reduced,
    utkface,
    utkface_short,
)
from palora.recipes.recipe import MACHINE, Recipe
from palora.suggest import unknown

RECIPES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE
    for module in (
        multimnist,
        multimnist_small,
        multimnist3,
        multi_fashion,
        fashion_and_mnist,
        census,
        sarcos,
        sarcos_reduced,
        utkface,
        utkface_short,
        cityscapes,
        nyuv2,
        nyuv2_quarter,
    )
}


def names() -> list[str]:
    """The names of all recipes."""
    return list(RECIPES)


def get(name: str) -> Recipe:
    """The recipe called `name`; an unknown name raises PaloraError that suggests the close ones."""
    if name not in RECIPES:
        raise PaloraError(unknown("recipe", name, RECIPES))
    return RECIPES[name]


__all__ = ["MACHINE", "RECIPES", "Recipe", "get", "names"]
