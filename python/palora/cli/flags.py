"""Flags made from the options of methods: a field of a method's `Options` is a flag of `palora train`."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer

Command = Callable[..., None]


def with_flags(command: Command, flags: dict[str, Any]) -> Command:
    """`command` with `flags` (:func:`method_flags`) as parameters in place of its ``**options``."""
    hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=option_type | None)
        for name, (option_type, option) in flags.items()
    ]

    def wrapper(**values: Any) -> None:
        command(**values)

    wrapper.__doc__ = command.__doc__
    wrapper.__name__ = command.__name__
    wrapper.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *more]}
    return wrapper


def method_flags() -> dict[str, Any]:
    """Option name → (type, typer option): the options of all methods, each once, with its owners."""
    from palora import methods

    owners: dict[str, dict[str, Any]] = {}
    fields: dict[str, tuple[Any, dataclasses.Field[Any]]] = {}
    for method in methods.METHODS.values():
        hints = get_type_hints(method.Options)
        for field in dataclasses.fields(method.Options):
            owners.setdefault(field.name, {})[method.name] = field.default
            fields.setdefault(field.name, (without_none(hints[field.name]), field))
    return {
        name: (option_type, typer.Option(None, flag(name), help=help_of(field, owners[name])))
        for name, (option_type, field) in fields.items()
    }


def help_of(field: dataclasses.Field[Any], owners: dict[str, Any]) -> str:
    """ "Rank r of every adapter. (palora; default 1)". `owners`: method → its default."""
    return f"{field.metadata.get('help', '')} ({'; '.join(groups_of(owners))})"


def groups_of(owners: dict[str, Any]) -> list[str]:
    """ "palora, pamal; default 1.0": methods with the same default together, those of the first in front."""
    groups: dict[str, list[str]] = {}
    for name, default in owners.items():
        groups.setdefault(str(default), []).append(name)
    return [
        ", ".join(names) + ("" if default in ("None", "False") else f"; default {default}")
        for default, names in groups.items()
    ]


def flag(name: str) -> str:
    """ray_chunk → --ray-chunk."""
    return "--" + name.replace("_", "-")


def without_none(hint: Any) -> Any:
    """``float | None`` → ``float``."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    kept = [part for part in get_args(hint) if part is not type(None)]
    return kept[0] if len(kept) == 1 else hint
