"""`palora bench`: how fast ours is, beside the reference implementation's loop over rays and the plain model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palora.cli.idle import refuse_together
from palora.errors import PaloraError

if TYPE_CHECKING:
    import torch

    from palora.bench.device.clock import Clock
    from palora.bench.table import Row

PINS = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
ALONE = {
    "compare": (),
    "check": ("only", "figure", "json"),
    "tune": ("only", "seconds", "device", "dtype"),
}
"""Options that make `palora bench` do something else → those that mean something there."""
DTYPES = ("float32", "bfloat16", "float16")


def bench(
    only: Annotated[str | None, typer.Option(metavar="TEXT", help="Only groups whose name has TEXT.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds to spend on each row (default: 3).")] = None,
    device: Annotated[str | None, typer.Option(help="auto (the default), cpu, cuda, …")] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help=f"On a GPU: {', '.join(DTYPES)}; may be repeated. Default: float32 and bfloat16."),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="On a GPU: measure tiles and plans, and store the best for this device.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="On a GPU: every kernel with every tile against float64, then times; goes on."),
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the ratios of all rows (.pdf, .png or .svg).")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the rows to FILE.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="OLD NEW", help="Compare two files; measure nothing.")
    ] = None,
) -> None:
    """Time ops, layers, training steps, sweeps and per-request mixing.

    Every row is checked against float64 first; a row that is wrong shows no numbers. On a CPU the columns run
    interleaved in one process, with threads pinned to cores. On a GPU every kernel is checked before anything is timed,
    and columns are replayed from CUDA graphs, in turn. --check is what `make gpu-check` runs: python -m
    palora.bench.device.check --help lists its options.
    """
    from palora.bench import table
    from palora.bench.device import figure as picture
    from palora.cli.console import table as show
    from palora.cli.pipes import outlive_reader
    from palora_kernels.typed import Range, conform

    given: dict[str, Any] = {"only": only, "seconds": seconds, "device": device, "dtype": dtype, "tune": tune}
    given |= {"check": check, "figure": figure, "json": json, "compare": compare}
    for alone, beside in ALONE.items():
        if given[alone]:
            refuse_together(given, alone, beside)
    seconds = 3.0 if seconds is None else conform("--seconds", seconds, Annotated[float, Range(0, 3600, above=True)])
    device = device or "auto"
    if json is not None or figure is not None or tune or check:  # there are files to write
        outlive_reader()
    if compare is not None:
        head = ["", "ours: old / new", "floor: old / new", "ours, less the machine's change"]
        show(head, table.compare(*compare), right=range(1, 4))
        return
    if figure is not None:
        picture.check_path(figure)
    if check:
        from palora.bench.device.check import main

        where = ["--out", str(json)] if json is not None else []
        drawn = ["--figure", str(figure)] if figure is not None else []
        raise typer.Exit(main([*where, *drawn, *(["--only", only] if only else [])]))
    place = _place("cuda" if tune and device == "auto" else device)
    if place.type == "cuda":
        from palora.bench.device.clock import CudaClock

        clock = CudaClock(place)
        if tune:
            tuned(place, _dtypes(dtype), clock, only, seconds)
            return
        header, rows = on_device(place, _dtypes(dtype), clock, only, seconds)
    elif tune or dtype is not None:
        raise ValueError(f"--tune and --dtype are for GPUs; on the CPU rows are float32. Found --device {place}.")
    else:
        pin_threads()
        header, rows = on_host(place, only, seconds)
    if json is not None:
        table.save(json, header, rows)
    if figure is not None:
        name = ", ".join(header["devices"]) or header["processor"]
        picture.ratio_figure(rows, figure, f"{name}, torch {header['torch']}")
    if any(not row.correct for row in rows):
        print("palora: some rows are wrong, see above.", file=sys.stderr)
        raise typer.Exit(1)


def _place(device: str) -> torch.device:
    from palora.bench.device.run import require_gpu
    from palora.engine.setup import pick_device

    if device.split(":")[0] == "cuda":
        require_gpu()
    return pick_device(device)


def _dtypes(names: Sequence[str] | None) -> list[torch.dtype]:
    import torch

    chosen = names or DTYPES[:2]
    for name in chosen:
        if name not in DTYPES:
            raise ValueError(f"--dtype should be one of {', '.join(DTYPES)}. Found {name!r}.")
    return [getattr(torch, name) for name in chosen]


def on_host(place: torch.device, only: str | None, seconds: float) -> tuple[dict[str, Any], list[Row]]:
    import torch

    from palora.bench import layers, models, ops, table
    from palora.cli.console import say
    from palora.cli.console import table as show
    from palora.engine.environment import describe
    from palora.engine.memory import keep_freed_memory

    cases = [*ops.cases(place, torch.float32), *layers.cases(place), *models.cases(place)]
    require_some(only, [group for group, _ in cases])
    keep_freed_memory()
    header = {**describe(), "pins": {name: os.environ.get(name) for name in PINS}, "device": str(place)}
    say(f"{header['processor']}, {header['threads']} threads, {_versions(header)}, {place}, float32")
    say("One process, columns interleaved; ratios are of minima and hold for an idle machine.")
    rows = []
    for group in dict.fromkeys(group for group, _ in cases):
        if only and only not in group:
            continue
        found = [table.measured(group, make, seconds, place) for its, make in cases if its == group]
        say(f"\n{group}")
        show(table.HEADINGS, [table.cells(row) for row in found], right=range(2, len(table.HEADINGS)))
        rows += found
    return header, rows


def require_some(only: str | None, groups: list[str]) -> None:
    """PaloraError, before anything is measured, where no group has `only` in its name."""
    if only and not any(only in group for group in groups):
        names = "; ".join(dict.fromkeys(groups))
        raise PaloraError(f"--only should be part of a group's name. Found {only!r}; groups: {names}.")


def _versions(header: dict[str, Any]) -> str:
    return f"python {header['python']}, torch {header['torch']}, palora {header['palora']}"


def _device_header(place: torch.device) -> dict[str, Any]:
    """The machine, what the kernels need of it, and the tuning file in use."""
    from palora.engine.environment import describe, version
    from palora_kernels.triton.launching import tuning

    files = [str(path) for path in tuning.files(place) if tuning.read(path)]
    return {
        **describe(),
        "triton": version("triton"),
        "device": str(place),
        "tuning": ", ".join(files) or None,
    }


def on_device(
    place: torch.device, dtypes: list[torch.dtype], clock: Clock, only: str | None, seconds: float, small: bool = False
) -> tuple[dict[str, Any], list[Row]]:
    """Check every kernel, then time. ``small``: few tiny calls, for Triton's interpreter.

    Raises PaloraError, before any time is printed, if a kernel is wrong.
    """
    from palora.bench.device import coverage, rates, rows, run
    from palora.cli.console import say
    from palora.cli.console import table as show

    header = _device_header(place)
    say(f"{', '.join(header['devices']) or header['processor']}, {_versions(header)}, triton {header['triton']}")
    say(f"tuning: {header['tuning'] or 'none; `palora bench --tune` measures tiles and plans for this device'}")
    require_some(only, [group for d in dtypes for group, _ in rows.all_rows(place, d, rows.compiled)])
    check_kernels(place, dtypes, coverage.examples(small))
    reached = rates.measured(place, dtypes, clock, min(seconds, 1.0), *((2**16, 64) if small else ()))
    header["measured"] = {"bytes_per_second": reached.bandwidth, "flops_per_second": reached.products}
    products = ", ".join(f"{flops / 1e12:.1f} TFLOP/s in {name}" for name, flops in reached.products.items())
    say(f"measured: copy {reached.bandwidth / 1e9:.0f} GB/s; matmul {products}. The shares below are of these.")
    found: list[Row] = []
    for dtype in dtypes:
        makers = [
            (group, make) for group, make in rows.all_rows(place, dtype, rows.compiled) if not only or only in group
        ]
        for group in dict.fromkeys(group for group, _ in makers):
            chosen = [maker for maker in makers if maker[0] == group]
            of_group = list(run.rows(chosen, clock, reached, dtype, seconds))
            for title in dict.fromkeys(row.group for row in of_group):
                say(f"\n{title}")
                lines = [run.cells(row) for row in of_group if row.group == title]
                show(run.HEADINGS, lines, right=range(2, len(run.HEADINGS) - 1))
            found += of_group
    return header, found


def check_kernels(place: torch.device, dtypes: list[torch.dtype], calls: list[Any]) -> None:
    """Raises PaloraError if a plan is wrong, with the worst of them; says what was compared and what could not be."""
    from palora.bench.device import coverage, run
    from palora.cli.console import say

    present, absent = run.backends(place)
    for name, reason in absent.items():
        say(f"not checked: {name}, {reason}")
    if not present:
        raise PaloraError("There is no kernel to measure: neither triton nor native runs on this device, see above.")
    checked = run.check(coverage.findings(place, dtypes, present, calls))
    if checked.wrong:
        for finding in sorted(checked.wrong, key=lambda f: -f.error / f.tolerance)[:20]:
            say(f"WRONG: {finding.name}: {finding.worst}, error {finding.error:.1e} > {finding.tolerance:.1e}")
        raise PaloraError(
            f"{len(checked.wrong)} of {checked.count} calls differ from the float64 definition, so nothing is timed."
        )
    say(f"checked: {checked.count} calls of {' and '.join(present)}, forward and all gradients, equal float64")


def tuned(place: torch.device, dtypes: list[torch.dtype], clock: Clock, only: str | None, seconds: float) -> None:
    """Measure tiles and plans, shape by shape, and store what is best after each."""
    from palora.bench.device import tune
    from palora.cli.console import say
    from palora_kernels.triton.launching import availability, tuning

    reason = availability.status()
    if reason != availability.AVAILABLE:
        raise ValueError(f"There is nothing to tune: {reason}.")
    path = tuning.file_of(place)
    if path is None:  # there is one for every GPU
        raise ValueError("PALORA_TUNING should name a file, or not be set, where tiles are measured. Found 'off'.")
    header = _device_header(place)
    about = {name: header[name] for name in ("devices", "torch", "triton", "cuda")}
    require_some(only, [op for dtype in dtypes for op, _ in tune.problems(place, dtype)])
    time = tune.timer(clock, min(seconds, 0.1))
    for dtype in dtypes:
        jobs = [(op, make) for op, make in tune.problems(place, dtype) if not only or only in op]
        for result in tune.tune(jobs, time):
            tuning.write(path, result.found, about)
            plans = ", ".join(dict.fromkeys(result.found.plans.values()))
            say(f"{result.name}, {str(dtype).removeprefix('torch.')}: {plans or 'nothing'}, {result.gain:.2f}×")
            for note in result.notes:
                say(f"  {note}")
    entries = tuning.read(path)
    say(f"{path}: {len(entries.tiles)} tiles and {len(entries.plans)} plans")


def pin_threads() -> None:
    """Start this process again with threads pinned: OpenMP reads these variables once, before the first import."""
    if all(name in os.environ for name in PINS):
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **PINS})
