"""`palora export`: take one preference of a run away, as a model that needs no palora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    preference: Annotated[
        str | None,
        typer.Option(metavar="W,W[,…]", help="A weight a task, as in 0.3,0.7; `palora select` finds one."),
    ] = None,
    format: Annotated[str, typer.Option(help="state-dict, torch-export, onnx or adapters.")] = "state-dict",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder (else exports/FORMAT-PREFERENCE in the run folder).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
    checkpoint: Annotated[str, typer.Option(help="last, or best by validation hypervolume.")] = "last",
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Data folder (else as trained).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, … (else as trained).")] = None,
) -> None:
    """Write the model of RUN at one preference, checked in a process without palora, with a card beside it.

    state-dict: weights, and a Python file with the architecture in plain PyTorch; torch-export: a program of
    torch.export; onnx: ONNX; adapters: the whole front, which palora loads again.
    """
    from palora.cli.results import line
    from palora.engine import Trained
    from palora.evaluation.naming import read_ray
    from palora.exporting.run import export_run
    from palora.exporting.writing import check_format
    from palora.optional import need

    check_format(format)
    need("matplotlib", "The picture of a front")
    trained = Trained(run, checkpoint=checkpoint, data=data, device=device)
    ray = None if preference is None else read_ray(preference, trained.tasks)
    found = export_run(trained, ray, format, out, force=force)
    line("folder", str(found.folder))
    for name in found.files:
        line("", f"{name}  ({(found.folder / name).stat().st_size:,} bytes)")
    line("checked", f"largest relative difference {found.about['largest_difference']:.1e}")
    line("to load it", str(found.folder / "README.md"))
