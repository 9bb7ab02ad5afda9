"""`--set name=value[,value …]`: settings of a method or a run by name, with the types they have there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palora.errors import PaloraError
from palora.suggest import unknown


def option_types() -> dict[str, Any]:
    """Name → type of the options of all methods."""
    from palora.cli.flags import method_flags

    return {name: kind for name, (kind, _) in method_flags().items()}


def read_settings(words: Sequence[str], types: dict[str, Any]) -> dict[str, list[Any]]:
    """Name → values, from words such as "rank=1,2,4"; `types`: name → type of a value.

    Commas within a value: write a list in which no comma separates, such as "weighting=1,0;0,1", in brackets:
    "weighting=[1,0;0,1]". Raises PaloraError for what is not of this form or not known.
    """
    found: dict[str, list[Any]] = {}
    for word in words:
        name, sign, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not text:
            raise PaloraError(f"--set should look like name=value,value. Found {word!r}.")
        if name not in types:
            raise PaloraError(unknown("setting", name, types))
        if name in found:
            raise PaloraError(f"--set {name} is given twice: write all values in one, {name}=1,2.")
        pieces = [text[1:-1]] if text.startswith("[") and text.endswith("]") else text.split(",")
        found[name] = [value_of(name, piece.strip(), types[name]) for piece in pieces]
        if len(set(map(str, found[name]))) < len(found[name]):
            raise PaloraError(f"--set {name} names a value twice: {text}.")
    return found


def value_of(name: str, text: str, kind: Any) -> Any:
    """`text` as a `kind` (int, float, bool or str); "none" is None."""
    if text.lower() == "none" and kind is not str:
        return None
    try:
        if kind is bool:
            return {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        from palora_kernels.typed import shown

        raise PaloraError(f"`{name}` should be a {kind.__name__}. Found {shown(text)}.") from None
