"""A trained run's model at one preference, in a folder with a card: all of it at once, or nothing."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palora import models
from palora.engine.trained import Trained
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.evaluation.naming import ray_words
from palora.exporting.card import card
from palora.exporting.formats import FORMATS, Plain
from palora.exporting.writing import ADAPTERS, beside, check_format, plain_module, write, write_adapters
from palora.files import write_file

MARK = "palora export 1"
"""The format of export.json, by which a folder is known to be an export."""
ROWS = 4
"""Samples of validation data on which answers are compared."""


@dataclass(frozen=True)
class Exported:
    """The folder of an export, the names of its files, and the content of its export.json."""

    folder: Path
    files: tuple[str, ...]
    about: dict[str, Any]


def export_run(
    trained: Trained,
    ray: Tensor | None = None,
    format: str = "state-dict",
    out: Path | str | None = None,
    *,
    force: bool = False,
) -> Exported:
    """Write the model of a run at `ray` (T,) as `format`, with README.md, front.png and export.json beside it.

    Args:
        trained: the run and its checkpoint.
        ray: the preference; None for a method without preferences.
        format: see :func:`palora.export`.
        out: the folder; default: exports/<format>-<preference> in the run folder.
        force: replace `out`, if it is an export.

    The folder appears when everything in it is written and checked. Raises PaloraError in one sentence.
    """
    check_format(format)
    ray = _preference(trained, ray)
    name = f"{format}-{ray_words(ray).replace(',', '-')}"
    folder = Path(out) if out is not None else trained.run.path / "exports" / name
    refuse_to_replace(folder, force)
    inputs = trained.parts.dataset.validation.rows(torch.arange(min(ROWS, len(trained.parts.dataset.validation))))[0]
    with beside(folder.resolve().parent) as work:
        files, load, difference = _model_files(trained, ray, format, inputs, work)
        about: dict[str, Any] = {
            "format": MARK,
            "export": format,
            "preference": dict(zip(trained.tasks, map(float, ray_words(ray).split(",")), strict=True)),
            "files": list(files),
            "largest_difference": difference,
            **{split: _json(trained.achieved(split, ray)) for split in ("validation", "test")},
        }
        draw(trained, ray, work / "front.png")
        write_file(work / "export.json", json.dumps(about, indent=1, allow_nan=False) + "\n")
        write_file(work / "README.md", card(trained, about, load, inputs))
        _appear(work, folder)
    return Exported(folder, (*files, "README.md", "front.png", "export.json"), about)


def _preference(trained: Trained, ray: Tensor | None) -> Tensor:
    if ray is not None:
        trained.check_ray(ray)
        return ray
    if len(trained.grid) > 1:
        example = ",".join(["1"] + ["0"] * (len(trained.tasks) - 1))
        raise PaloraError(
            f"A front of {len(trained.tasks)} tasks is exported at one preference: give weights for "
            f"{', '.join(trained.tasks)}, as in --preference {example}; `palora select` finds one."
        )
    return trained.grid[0]


def _json(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def refuse_to_replace(folder: Path, force: bool) -> None:
    """PaloraError for a folder with something in it, unless `force` and it is an export."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.exists():
        return
    if not force:
        raise PaloraError(f"{folder} exists already: choose another place with --out, or replace it with --force.")
    try:
        known = json.loads((folder / "export.json").read_text(encoding="utf-8")).get("format") == MARK
    except (OSError, ValueError, AttributeError):
        known = False
    if not known:
        raise PaloraError(f"{folder} is not an export of palora and is not replaced: choose another place with --out.")


def _model_files(
    trained: Trained, ray: Tensor, format: str, inputs: Tensor, work: Path
) -> tuple[tuple[str, ...], str, float | None]:
    """Write the model into `work` and check it: the files, how to load them, and the largest difference."""
    parts = trained.parts
    if format == ADAPTERS:
        write_adapters(parts.model, work / "adapters.safetensors")
        return ("adapters.safetensors",), _load_adapters(trained, ray), 0.0
    with torch.no_grad():
        placed = parts.place(inputs)
        expected = [y[0].cpu() for y in parts.method.forward(parts.model, placed, parts.move(ray[None]))]
    title = f"{trained.config.recipe} at the preference {ray_words(ray)}"
    plain = Plain(plain_module(_alone(trained, ray)), (inputs,), title, trained.tasks)
    written, difference = write(plain, expected, work, f"model{FORMATS[format][0]}", format)
    return written.files, written.load, difference


def _alone(trained: Trained, ray: Tensor) -> nn.Module:
    """The model at `ray` without what a method added for training, where it is a model of the recipe's kind."""
    merged = trained.parts.method.merged(trained.parts.model, trained.parts.move(ray))
    config = trained.config
    if trained.make_model is not None:
        return merged
    fresh = models.build(config.model, **config.model_options)
    if type(merged) is not type(fresh):
        return merged
    weights = merged.state_dict()
    fresh.load_state_dict({name: weights[name] for name in fresh.state_dict()})
    return fresh


def _load_adapters(trained: Trained, ray: Tensor) -> str:
    options = "".join(f", {name}={value!r}" for name, value in trained.config.model_options.items())
    return (
        "import palora\n\n"
        f'base = palora.models.build("{trained.config.model}"{options})\n'
        'base = palora.load_adapters(base, "adapters.safetensors").eval()\n\n\n'
        f"def model(x, preference=({ray_words(ray).replace(',', ', ')})):\n"
        "    with palora.at(base, preference):\n"
        "        return base(x)"
    )


def draw(trained: Trained, ray: Tensor, path: Path) -> None:
    """The front on test data, the exported point on it."""
    from palora.report.figures import front_figure

    numbers = trained.achieved("test", ray)
    losses = torch.tensor([[numbers[f"loss/{task}"] for task in trained.tasks]])
    metrics = {name: torch.tensor([value]) for name, value in numbers.items() if not name.startswith("loss/")}
    front = trained.grid_front("test")
    point = Front(ray[None], losses.to(front.losses), metrics, trained.tasks)
    front_figure({trained.config.method: front}, path, points={"exported": point})


def _appear(work: Path, folder: Path) -> None:
    """`work` takes the place of `folder`, whose old content is gone only then."""
    umask = os.umask(0)
    os.umask(umask)
    made = work / "new"
    made.mkdir()
    for file in [file for file in work.iterdir() if file != made]:
        os.chmod(file, 0o666 & ~umask)
        os.replace(file, made / file.name)
    os.chmod(made, 0o777 & ~umask)
    if folder.exists():
        os.replace(folder, work / "old")
    try:
        os.replace(made, folder)
    except OSError:
        if (work / "old").exists():
            os.replace(work / "old", folder)
        raise
    shutil.rmtree(work / "old", ignore_errors=True)
