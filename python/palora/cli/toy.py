"""`palora toy`: the illustrative problem of two variables, whose front is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palora.errors import PaloraError

if TYPE_CHECKING:
    from palora.toy import Descent


def toy(
    method: Annotated[
        list[str] | None, typer.Option(help="A method, or all; may be repeated (default: palora).")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the methods: --set rays=3.")
    ] = None,
    scale: Annotated[
        float, typer.Option(help="Scale c of the first loss: 1 (equal scales) or 0.1 in the paper.")
    ] = 0.1,
    steps: Annotated[int, typer.Option(help="Steps of Adam.")] = 500,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    starts: Annotated[int | None, typer.Option(help="How many of the five starts (default: 5, for a front 1).")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figure and the numbers go.")] = Path("runs/toy"),
) -> None:
    """Run methods on the two-variable problem of the PaMaL paper and compare them with its known front.

    Methods that can balance tasks do so by gradient norms; --set balance=none (or loss) changes that.
    """
    from palora import methods
    from palora.cli.console import say, table
    from palora.cli.pipes import outlive_reader
    from palora.cli.results import require_packages
    from palora.cli.settings import option_types, read_settings
    from palora.files import write_file
    from palora.report.trajectories import trajectory_figure
    from palora.toy import STARTS, descend, options_for, suited

    outlive_reader()
    if starts is not None and not 1 <= starts <= len(STARTS):
        raise ValueError(f"`starts` should lie in 1 … {len(STARTS)}. Found {starts}.")
    from palora_kernels.typed import check_arguments

    check_arguments(descend, {"steps": steps, "lr": lr, "scale": scale, "seed": seed})
    given = {name: single(name, values) for name, values in read_settings(setting or [], option_types()).items()}
    if method and "all" in method and len(method) > 1:
        raise PaloraError("--method all is every method: leave the other --method out.")
    names = suited() if method == ["all"] else list(dict.fromkeys(method or ["palora"]))
    for option in given:
        if not any(option in options_for(name, given) for name in names):
            raise PaloraError(f"--set {option} does nothing for {', '.join(names)}: leave it out.")
    for name in names:  # before the first step of the first
        options = options_for(name, given)
        methods.refuse_idle(methods.get(name), methods.make_options(methods.get(name), options), given)
    require_packages()
    descents = []
    for name in names:
        options = options_for(name, given)
        point = len(methods.build(name, 2, options).evaluation_rays(2)) == 1
        for number, start in enumerate(STARTS[: starts or (len(STARTS) if point else 1)]):
            descents.append(descend(name, start, options=options, scale=scale, steps=steps, lr=lr, seed=seed + number))
    numbers = [describe(descent) for descent in descents]
    table(
        ["method", "start", "IGD+", "worst gap", "losses at (1, 0)", "losses at (0, 1)"],
        [
            [n["method"], pair(n["start"]), f"{n['igd_plus']:.4f}", f"{n['gap']:.4f}", *ends(n["final"])]
            for n in numbers
        ],
        right=(2, 3),
    )
    say()
    say("IGD+ to the whole front, and the gap of the worst point behind it: in units of the front's sides.")
    if "stl" in names:
        say("stl has a θ for each task: its points may lie beyond what one θ can reach.")
    write_file(out / "toy.json", json.dumps(numbers, indent=1) + "\n")
    pictures = [out / f"toy.{kind}" for kind in ("png", "pdf")]
    for path in pictures:
        trajectory_figure(descents, path)
    say(f"numbers {out / 'toy.json'}, picture {', '.join(map(str, pictures))}")


def single(name: str, values: list[Any]) -> Any:
    """The one value of a setting."""
    if len(values) != 1:
        raise PaloraError(f"--set {name} takes one value here; `palora ablate` compares several.")
    return values[0]


def describe(descent: Descent) -> dict[str, Any]:
    """What toy.json says of a descent."""
    return {
        "method": descent.method,
        "start": list(descent.start),
        "scale": descent.scale,
        "steps": int(descent.steps[-1]),
        "igd_plus": descent.igd_plus(),
        "gap": descent.gap(),
        "rays": descent.rays.tolist(),
        "final": descent.losses[-1].tolist(),
    }


def pair(values: list[float]) -> str:
    """(-8.5, 7.5)."""
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def ends(final: list[list[float]]) -> list[str]:
    """The losses at the two vertices; of a single point, itself."""
    return [pair(final[0]), pair(final[-1]) if len(final) > 1 else ""]
