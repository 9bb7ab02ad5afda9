"""`palora select`: a preference of a run, chosen with reasons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palora.errors import PaloraError

if TYPE_CHECKING:
    from palora.engine import Choice
    from palora.engine.trained import Trained

WAYS = "--best NAME [--at-least NAME=VALUE], --epsilon NAME=VALUE, --knee, --nearest NAME=VALUE, or --preference"
BOUND = "NAME=VALUE[,…]"


def select(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    at_least: Annotated[
        list[str] | None, typer.Option(metavar=BOUND, help="With --best: what a task or metric must reach.")
    ] = None,
    at_most: Annotated[
        list[str] | None, typer.Option(metavar=BOUND, help="With --best: what a loss or error may be.")
    ] = None,
    best: Annotated[str | None, typer.Option(metavar="NAME", help="The task or metric to optimise.")] = None,
    epsilon: Annotated[
        list[str] | None,
        typer.Option(metavar=BOUND, help="A bound for all tasks but one, which is optimised (ε-constraint method)."),
    ] = None,
    knee: Annotated[bool, typer.Option("--knee", help="Where the trade-off bends most.")] = False,
    nearest: Annotated[
        list[str] | None, typer.Option(metavar=BOUND, help="What comes nearest to these values.")
    ] = None,
    preference: Annotated[
        str | None, typer.Option(metavar="W,W[,…]", help="What this preference achieves: a weight a task.")
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Look between the rays of the grid: by evaluating, and by gradients.")
    ] = False,
    checkpoint: Annotated[str, typer.Option(help="last, or best by validation hypervolume.")] = "last",
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Data folder (else as trained).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, … (else as trained).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Choose a preference of the run RUN on validation data; show it with its numbers on test data, and the command
    that exports it. A NAME is a task or a metric, such as left or accuracy/left."""
    bounds: dict[str, Any] = {"at_least": read_values("--at-least", at_least)}
    bounds["at_most"] = read_values("--at-most", at_most)
    epsilons, wish = read_values("--epsilon", epsilon), read_values("--nearest", nearest)
    constrained = best is not None and not epsilons
    ways = [constrained, bool(epsilons), knee, bool(wish), preference is not None]
    if sum(ways) != 1 or (any(bounds.values()) and not constrained):
        raise PaloraError(f"Say in one way what to choose: {WAYS}.")

    import functools

    from palora import evaluation
    from palora.engine import Trained, choose
    from palora.evaluation.naming import read_ray

    trained = Trained(run, checkpoint=checkpoint, data=data, device=device)
    rule: Any
    if preference is not None:
        rule = read_ray(preference, trained.tasks)
    elif knee:
        rule = evaluation.knee
    elif wish:
        rule = functools.partial(evaluation.nearest, wish=wish)
    elif epsilons:
        rule = functools.partial(evaluation.epsilon, bounds=epsilons, best=best)
    else:
        rule = functools.partial(evaluation.select, best=best, **bounds)
    found = choose(trained, rule, refine=refine, show=say_to_stderr)
    show_json(found) if json else show(found, trained)


def read_values(option: str, words: list[str] | None) -> dict[Any, float]:
    """ "left=0.96,right=0.94" → name → value; a name is what stands before the last "=" of its part."""
    values: dict[Any, float] = {}
    for word in ",".join(words or []).split(",") if words else []:
        name, sign, text = (piece.strip() for piece in word.rpartition("="))
        try:
            value = float(text)
        except ValueError:
            value = None  # type: ignore[assignment]
        if not sign or not name or value is None:
            raise PaloraError(f"{option} should look like NAME=VALUE, as in left=0.95. Found {word!r}.")
        if name in values:
            raise PaloraError(f"{option} names {name} twice.")
        values[name] = value
    return values


def show(found: Choice, trained: Trained) -> None:
    """The choice, as a person reads it."""
    from palora.cli.console import say, table
    from palora.cli.results import line
    from palora.evaluation.naming import weight_text

    between = ", between those of the grid too" if found.refined else ""
    how = "as asked for" if found.asked else f"chosen on validation data among {found.rays} rays{between}"
    line("preference", ", ".join(f"{t} {weight_text(w)}" for t, w in zip(found.tasks, found.ray, strict=True)))
    line("", f"{how}; {found.checkpoint} checkpoint")
    say()
    rows = [[name, f"{value:.4f}", f"{found.test[name]:.4f}"] for name, value in found.validation.items()]
    table(["", "validation", "test"], rows, right=(1, 2))
    say()
    line("data", trained.parts.dataset.note)
    line("take it away", found.export)


def show_json(found: Choice) -> None:
    """The choice, for a program; what has no value is null."""
    import json
    import math

    from palora.cli.console import say

    content = found.to_dict()
    for part in ("validation", "test"):
        content[part] = {name: value if math.isfinite(value) else None for name, value in content[part].items()}
    say(json.dumps(content, indent=1, allow_nan=False))


def say_to_stderr(text: str) -> None:
    """Progress, apart from the answer."""
    import sys

    print(text, file=sys.stderr, flush=True)
