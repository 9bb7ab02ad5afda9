"""Values against types. What a field, a flag or a file may hold is declared once, as the type of a field:

    epochs: Annotated[int, Range(1, 1_000_000)]

and checked wherever such a value comes from: `check_fields` in a dataclass, `conform` for what a JSON file says. A bool
is no integer, a number is finite. Needs nothing but Python, so that the kernels and what checks them on a bare device
can use it; a validator from elsewhere would ask for more than torch there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

T = TypeVar("T")
_SHOWN = 60  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Range:
    """low <= value <= high; ``above``: low < value; ``nan``: nan and, with infinite bounds, inf are numbers too."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    nan: bool = False

    def admits(self, value: float) -> bool:
        if math.isnan(value):
            return self.nan
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def broken_by(self, value: Any) -> str:
        """The bound that a number is beyond, in words; of what is no number, both."""
        low = f"{'>' if self.above else '>='} {_number(self.low)}" if self.low > -math.inf else ""
        high = f"<= {_number(self.high)}" if self.high < math.inf else ""
        known = isinstance(value, Real) and not isinstance(value, bool) and value == value
        if known and not (value > self.high or value == math.inf):
            return low
        return high if known and high else " and ".join(bound for bound in (low, high) if bound)


FINITE = Range()
AnyNumber = Annotated[float, Range(nan=True)]
"""A float that may be nan or inf."""


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def shown(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except Exception as error:  # of an object of somebody else's
        return f"a {type(value).__name__} without a repr ({type(error).__name__})"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def conform(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint` says, numbers within its Range; lists become tuples, and mappings dataclasses, where
    the type is one. A TypedDict says which keys there must be; further ones stay as they are.

    `name`: how messages call the value. Raises ValueError for anything else.
    """
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        inner, *marks = get_args(hint)
        bounds = next((mark for mark in marks if isinstance(mark, Range)), FINITE)
        return _scalar(name, value, inner, bounds) if inner in (int, float) else conform(name, value, inner)
    if hint in (int, float):
        return _scalar(name, value, hint, FINITE)
    if origin in (Union, types.UnionType):
        return _union(name, value, get_args(hint))
    if origin is Literal:
        if not any(type(value) is type(one) and value == one for one in get_args(hint)):
            raise _wrong(name, _one_of(get_args(hint)), value)
        return value
    if hint is None or hint is type(None):
        if value is not None:
            raise _wrong(name, "null", value)
        return None
    if origin in (list, tuple, Sequence):
        return _row(name, value, origin, get_args(hint))
    if origin in (dict, Mapping):
        return _mapping(name, value, *get_args(hint))
    if is_typeddict(hint):
        return _record(name, value, hint)
    if dataclasses.is_dataclass(hint) and not isinstance(value, hint):  # type: ignore[arg-type]
        return _dataclass(name, value, hint)
    if not isinstance(value, hint):
        raise _wrong(name, _WORDS.get(hint, f"a {hint.__name__}"), value)
    return value


_WORDS = {bool: "true or false", str: "a text", int: "an integer", float: "a finite number", dict: "names and values"}


def _wrong(name: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"`{name or 'it'}` should be {expected}. Found {shown(value)}.")


def _one_of(options: Sequence[Any]) -> str:
    *first, last = map(str, options)
    return f"{', '.join(first)} or {last}" if first else last


def _scalar(name: str, value: Any, kind: type, bounds: Range) -> Any:
    number = kind is float
    words = "a number" if number and bounds.nan else "an integer" if not number else "a finite number"
    expected = f"{words} {bounds.broken_by(value)}".rstrip()
    if isinstance(value, bool) or not isinstance(value, Real if number else Integral):
        raise _wrong(name, expected, value)
    try:
        found = kind(value)
        good = (bounds.nan or math.isfinite(found)) and bounds.admits(found)
    except OverflowError:  # an integer beyond all floats
        good = False
    if not good:
        raise _wrong(name, expected, value)
    return found


def _union(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    if value is None and type(None) in options:
        return None
    others = [one for one in options if one is not type(None)]
    problems = []
    for one in others:
        try:
            return conform(name, value, one)
        except ValueError as error:
            problems.append(error)
    meant = [p for p, one in zip(problems, others, strict=True) if len(problems) == 1 or _says_so(value, one)]
    if len(meant) == 1:
        raise meant[0]
    said = [str(error).partition(" should be ")[2].rpartition(". Found")[0] or "another record" for error in problems]
    raise _wrong(name, " or ".join(dict.fromkeys(said)), value)


def _says_so(value: Any, kind: Any) -> bool:
    """Whether a mapping says by a key, such as kind: "step", that it means to be this TypedDict."""
    if not is_typeddict(kind) or not isinstance(value, Mapping):
        return False
    tags = {key: get_args(hint) for key, hint in _hints(kind).items() if get_origin(hint) is Literal}
    return bool(tags) and all(value.get(key) in allowed for key, allowed in tags.items())


def _row(name: str, value: Any, origin: Any, hints: tuple[Any, ...]) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _wrong(name, "a list", value)
    make = tuple if origin is tuple else list
    if origin is tuple and hints[-1] is not Ellipsis:
        if len(value) != len(hints):
            raise _wrong(name, f"a list of {len(hints)}", value)
        return tuple(conform(f"{name}[{i}]", v, hint) for i, (v, hint) in enumerate(zip(value, hints, strict=True)))
    if hints[0] is float and all(type(v) is float and math.isfinite(v) for v in value):
        return make(value)  # what large files are made of, without a call for each
    return make(conform(f"{name}[{i}]", v, hints[0]) for i, v in enumerate(value))


def _mapping(name: str, value: Any, key: Any, hint: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(name, "names and values", value)
    return {conform(f"{name}, a key", k, key): conform(_below(name, k), v, hint) for k, v in value.items()}


def _below(name: str, key: Any) -> str:
    return f"{name}.{key}"[-200:] if name else str(key)[:200]


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _record(name: str, value: Any, kind: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(name, "names and values", value)
    hints = _hints(kind)
    for key in sorted(kind.__required_keys__ - set(value)):
        raise ValueError(f"`{_below(name, key)}` is missing.")
    return {k: conform(_below(name, k), v, hints[k]) if k in hints else v for k, v in value.items()}


def _dataclass(name: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(name, "names and values", value)
    hints, fields = _hints(kind), {f.name: f for f in dataclasses.fields(kind) if f.init}
    for key in value:
        if key not in fields:
            raise ValueError(f"`{_below(name, shown(key).strip(chr(39)))}` is none of {', '.join(fields)}.")
    for key, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if key not in value and not optional:
            raise ValueError(f"`{_below(name, key)}` is missing.")
    return kind(**{key: conform(_below(name, key), v, hints[key]) for key, v in value.items()})


def check_fields(of: Any) -> None:
    """In ``__post_init__``: every field of a dataclass is what its type says. Raises ValueError, naming the field."""
    hints = _hints(of.__class__)
    for field in dataclasses.fields(of):
        object.__setattr__(of, field.name, conform(field.name, getattr(of, field.name), hints[field.name]))


def check_arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, each as the parameter of its name is annotated. Names that are no parameters are left as they are."""
    hints = _hints(function)
    return {key: conform(key, value, hints[key]) if key in hints else value for key, value in values.items()}
