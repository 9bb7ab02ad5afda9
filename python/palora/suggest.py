"""What to say when a name is unknown: the close ones first, then all of them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for the unknown `name` of a `kind` ("recipe", "method"): "There is no recipe 'x'. …"."""
    known = list(known)
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"There is no {kind} '{name}'.{meant} Known are: {', '.join(known)}."
