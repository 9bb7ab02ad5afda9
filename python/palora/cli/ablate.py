"""`palora ablate`: a grid of settings and seeds, one table and one figure."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palora.cli.idle import refuse_idle_settings
from palora.errors import PaloraError, UnwritableError

if TYPE_CHECKING:
    from palora.engine import RunConfig


RUN_SETTINGS: dict[str, Any] = {"lr": float, "batch": int, "epochs": int, "precision": str}
"""What can be varied beside the options of the method."""


def ablate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=V,V", help="Values of a setting: --set rank=1,2,4 --set alpha=1,2."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    method: Annotated[str | None, typer.Option(help="A method (default: the recipe's).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only so many samples of each split.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 (autocast).")] = None,
    device: Annotated[str | None, typer.Option(help="auto (the default), cpu, cuda, …")] = None,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Data folder (else PALORA_DATA).")] = None,
    split: Annotated[str, typer.Option(help="Where fronts are compared: validation or test.")] = "validation",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the ablation (else in runs/).")] = None,
) -> None:
    """Train RECIPE with every combination of settings and seeds; compare their fronts.

    Repeat the command after an interruption: finished runs are kept, the one that was interrupted goes on.
    """
    from palora import methods, recipes
    from palora.cli.console import console, say
    from palora.cli.pipes import outlive_reader
    from palora.cli.results import require_packages
    from palora.engine import Interrupted
    from palora.engine.ablate import plan, run_cell
    from palora.engine.progress import reporter
    from palora.engine.setup import pick_device
    from palora.engine.sole_writer import sole_writer

    outlive_reader()
    chosen = recipes.get(recipe)
    name = method or chosen.method
    grid = grid_of(setting or [], methods.get(name))
    if split not in ("validation", "test"):
        raise PaloraError(f"--split should be validation or test. Found {split!r}.")
    fixed: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr, "limit": limit, "precision": precision}
    fixed = {key: value for key, value in fixed.items() if value is not None}
    refuse_idle_settings(chosen, name, fixed)
    twice = sorted(set(fixed) & set(grid))
    if twice:
        raise PaloraError(f"`{twice[0]}` is varied by --set and fixed by --{twice[0]}: leave one out.")
    where = {"data": data, "device": str(pick_device(device or "auto"))}

    def configure(settings: dict[str, Any], seed: int) -> RunConfig:
        of_run = {key: value for key, value in settings.items() if key in RUN_SETTINGS}
        of_method = {key: value for key, value in settings.items() if key not in RUN_SETTINGS}
        return chosen.configure(method=name, method_options=of_method, seed=seed, **{**fixed, **of_run, **where})

    folder = out or Path("runs") / f"ablate-{recipe}-{name}"
    cells = plan(grid, seeds_of(seeds), folder, configure)
    require_packages()
    show, runs = reporter(console()), []
    try:
        with sole_writer(folder):
            for number, cell in enumerate(cells, start=1):
                settings = describe(cell.settings)
                show.note(f"run {number} of {len(cells)}: {settings}{', ' if settings else ''}seed {cell.seed}")
                runs.append(run_cell(cell, split=split, show=show))
                if "failed" in runs[-1]:
                    show.note(f"failed: {runs[-1]['failed']}")
            say()
            report(runs, folder, {"recipe": recipe, "method": name, "split": split, "fixed": fixed})
    except (Interrupted, UnwritableError, KeyboardInterrupt) as stopped:
        why = str(stopped) or "Stopped by Ctrl-C"
        print(f"palora: {why}. The same command goes on: {len(runs)} of {len(cells)} runs are done.", file=sys.stderr)
        raise typer.Exit(1 if isinstance(stopped, UnwritableError) else 130) from None


def grid_of(words: list[str], method: Any) -> dict[str, list[Any]]:
    """Setting → values; what can be set are the options of the method and RUN_SETTINGS."""
    import dataclasses

    from palora.cli.settings import option_types, read_settings

    own = {field.name for field in dataclasses.fields(method.Options)}
    types = {name: kind for name, kind in option_types().items() if name in own}
    return read_settings(words, {**types, **RUN_SETTINGS})


def seeds_of(text: str) -> list[int]:
    """ "0,1,2" → [0, 1, 2]."""
    from palora_kernels.typed import Range, conform, shown

    try:
        seed = Annotated[int, Range(0, 2**32 - 1)]
        return list(dict.fromkeys(conform("seed", int(word), seed) for word in text.split(",")))
    except ValueError:
        raise PaloraError(f"--seeds should look like 0,1,2, each below 2**32. Found {shown(text)}.") from None


def report(runs: list[dict[str, Any]], folder: Path, about: dict[str, Any]) -> None:
    """Print the table; write ablation.json, ablation.csv and the figure."""
    from palora.cli.console import say, table
    from palora.engine.ablate import MEASURES, best, by_setting, chosen_hypervolume
    from palora.files import write_file
    from palora.report.ablation import ablation_figure

    rows = by_setting(runs)
    winner = best(rows)
    names = list(rows[0]["settings"])
    shown = [m for m in MEASURES if any(row[m] is not None for row in rows)]
    head = [*names, "runs", *(m.replace("_", " ") for m in shown), ""]
    lines = [
        [
            *(str(value) for value in row["settings"].values()),
            str(len(row["seeds"]) - len(row["failed"])),
            *(number(row[m], row[f"{m}_std"], 1 if m == "nondominated" else 4) for m in shown),
            "best" if index == winner else f"{len(row['failed'])} failed" if row["failed"] else "",
        ]
        for index, row in enumerate(rows)
    ]
    table(head, lines, right=range(len(names), len(head) - 1))
    say()
    judged = chosen_hypervolume(rows).replace("_", " of ")
    say(f"Mean ± deviation over seeds, on {about['split']} data; best by {judged}.")
    content = {**about, "best": None if winner is None else rows[winner]["settings"], "rows": rows, "runs": runs}
    write_file(folder / "ablation.json", json.dumps(content, indent=1) + "\n")
    write_file(folder / "ablation.csv", as_csv(rows, names))
    written = [folder / "ablation.json", folder / "ablation.csv"]
    if any("failed" not in run for run in runs):
        written += [folder / f"ablation.{kind}" for kind in ("png", "pdf")]
        for path in written[2:]:
            ablation_figure(runs, path)
        written += draw_fronts(runs, folder)
    say(f"written {', '.join(map(str, written))}")


def draw_fronts(runs: list[dict[str, Any]], folder: Path) -> list[Path]:
    """The fronts of all settings and seeds in one figure, metrics and losses (PaLoRA, Fig. 8 and 9)."""
    from palora.evaluation import Front
    from palora.report.figures import front_figure

    fronts: dict[str, list[Front]] = {}
    for run in runs:
        if "failed" not in run:
            fronts.setdefault(describe(run["settings"]) or "defaults", []).append(
                Front.load(Path(run["folder"]) / "front.json")
            )
    if any(len(front) == 1 for found in fronts.values() for front in found):
        return []
    path = folder / "ablation-fronts.png"
    front_figure(fronts, path)
    return [path]


def as_csv(rows: list[dict[str, Any]], names: list[str]) -> str:
    """One line a setting: the settings, how many runs, and mean and deviation of each measure."""
    from palora.engine.ablate import MEASURES

    columns = [column for name in MEASURES for column in (name, f"{name}_std")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "runs", "failed", *columns])
    for row in rows:
        done = len(row["seeds"]) - len(row["failed"])
        values = ["" if row[column] is None else row[column] for column in columns]
        writer.writerow([*row["settings"].values(), done, len(row["failed"]), *values])
    return text.getvalue()


def number(mean: float | None, deviation: float | None, digits: int) -> str:
    """ "0.7504 ± 0.0031"."""
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" if deviation is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def describe(settings: dict[str, Any]) -> str:
    """ "rank 1, alpha 2"."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())
