"""samples.json as it goes into a page: read with suspicion, because pages are opened in browsers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from palora.engine.samples import FORMAT
from palora.errors import PaloraError

PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")
LARGEST = 4_000_000
"""Bytes: larger files are not read."""


def read_samples(path: Path, tasks: int) -> dict[str, Any] | None:
    """What `palora evaluate` kept, or None where there is no such file. PaloraError if it is something else."""
    if not path.exists():
        return None
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        rays = [_numbers(ray, tasks) for ray in content["rays"]]
        kinds = [{"name": str(task["name"]), "kind": str(task["kind"])} for task in content["tasks"]]
        if len(kinds) != tasks:
            raise ValueError(f"it has {len(kinds)} tasks, the front {tasks}")
        samples = [_sample(sample, len(rays), tasks) for sample in content["samples"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PaloraError(f"{path} cannot be shown ({error}): evaluate the run again.") from error
    return {"tasks": kinds, "rays": rays, "samples": samples}


def _sample(sample: dict[str, Any], rays: int, tasks: int) -> dict[str, Any]:
    answers = sample["answers"]
    if len(sample["truth"]) != tasks or len(answers) != rays or any(len(one) != tasks for one in answers):
        raise ValueError("a sample has not one answer for each ray and task")
    return {
        "index": int(sample["index"]),
        "chosen": "changes" if sample["chosen"] == "changes" else "first",
        "input": _entry(sample["input"]),
        "truth": [_entry(entry) for entry in sample["truth"]],
        "answers": [[_entry(entry) for entry in one] for one in answers],
    }


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Known keys with values of their type; an address that is not a picture in itself is refused."""
    clean: dict[str, Any] = {}
    if "picture" in entry:
        if not isinstance(entry["picture"], str) or not PICTURE.fullmatch(entry["picture"]):
            raise ValueError("a picture is not a PNG or JPEG in a data URI")
        clean["picture"] = entry["picture"]
    for key in ("class", "confidence", "width", "of"):
        if key in entry:
            clean[key] = None if entry[key] is None else _number(entry[key])
    for key in ("classes", "probabilities", "values", "range", "shape"):
        if key in entry:
            clean[key] = _numbers(entry[key])
    return clean


def _numbers(values: Any, count: int | None = None) -> list[float | None]:
    if not isinstance(values, list) or (count is not None and len(values) != count):
        raise ValueError("a list of numbers is missing or of another length")
    return [None if value is None else _number(value) for value in values]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{str(value)[:40]!r} stands where a number should")
    return value
