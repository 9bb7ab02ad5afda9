"""The page itself: a template, a style sheet, scripts and the data, all in one file that may load nothing else.

What comes from files enters as JSON that cannot end its element, and the scripts put it on the page as text, never as
markup. A content security policy names the scripts and the style by their hashes, so that nothing else would run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

SCRIPTS = (
    "vendor/d3.min.js",
    *("state.js", "colours.js", "words.js", "scales.js"),
    *("plane.js", "along.js", "ternary.js", "solid.js", "parallel.js"),
    *("export.js", "figure.js", "sliders.js", "pad.js", "dial.js", "outputs.js"),
    *("comparison.js", "curves.js", "tables.js", "main.js"),
)
"""In the order in which they run; each uses those before it."""


def page(data: dict[str, Any], connect: str = "'none'", scripts: Sequence[str] = SCRIPTS) -> str:
    """The HTML of a page on `data` (:func:`palora.report.page.payload`).

    `connect`: the sources that the page may talk to, as in a content security policy: "'self'" where a server answers.
    `scripts`: names of assets, in the order in which they run.
    """
    style = asset("page.css")
    texts = [asset(name) for name in scripts]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, texts)),
        "style-src": _hash(style),
        "img-src": "data: blob:",
        "connect-src": connect,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    parts = {
        "policy": html.escape("; ".join(f"{name} {sources}" for name, sources in policy.items())),
        "title": html.escape(str(data["title"])),
        "style": style,
        "licence": html.escape(asset("vendor/d3.LICENSE")),
        "data": json_for_html(data),
        "scripts": "\n".join(f"<script>{script}</script>" for script in texts),
    }
    pieces = asset("page.html").split("{{")
    return pieces[0] + "".join(parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces[1:]))


def asset(name: str) -> str:
    """The text of a file in ``assets/``."""
    return resources.files("palora.report.page").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")


def json_for_html(data: Any) -> str:
    """JSON in which no character can end the script element, begin a comment, or be read as markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII: no line separators of Unicode either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
