"""Choose a preference of a trained run: on validation data, with what the choice achieves on test data."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from palora.engine.trained import Trained, measured
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.evaluation.naming import ray_words
from palora.evaluation.refining import Choose, search
from palora.evaluation.selection import position


@dataclass(frozen=True)
class Choice:
    """A preference of a run and what it achieves, chosen on validation data (or `asked` for)."""

    run: Path
    checkpoint: str
    tasks: tuple[str, ...]
    ray: Tensor
    """(T,)."""
    validation: dict[str, float]
    """"loss/<task>" and metrics on validation data."""
    test: dict[str, float]
    """The same on test data, which had no part in the choice."""
    rays: int
    """How many rays were compared."""
    refined: bool
    """Whether rays between those of the grid were among them."""
    asked: bool = False
    """Whether it was named, not chosen."""

    @property
    def export(self) -> str:
        """The command that takes this model away."""
        words = ["palora", "export", str(self.run), "--preference", ray_words(self.ray)]
        words += [] if self.checkpoint == "last" else ["--checkpoint", self.checkpoint]
        return shlex.join(words)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "run": str(self.run),
            "checkpoint": self.checkpoint,
            "tasks": list(self.tasks),
            "preference": [float(word) for word in ray_words(self.ray).split(",")],
            "chosen_on": None if self.asked else "validation",
            "rays": self.rays,
            "refined": self.refined,
            "validation": self.validation,
            "test": self.test,
            "export": self.export,
        }


def choose(
    run: Path | str | Trained,
    rule: Choose | Tensor,
    *,
    refine: bool = False,
    show: Callable[[str], None] = lambda text: None,
    **how: Any,
) -> Choice:
    """Choose a preference of a run by its front on validation data.

    Args:
        run: a run folder, or a `Trained`.
        rule: a front → one of its rays: `palora.knee`, or with ``functools.partial`` others of that kind, such as
            ``partial(palora.select, at_least={"left": 0.95}, best="right")``; or a preference (T,) to look up.
        refine: look between the rays of the grid, too (:func:`palora.evaluation.refining.search`).
        show: called with a line for each round of that.
        how: `checkpoint`, `data`, `device` and `make_model` of `Trained`.

    Raises PaloraError in one sentence: a bound out of reach, a preference that is not on the grid (without `refine`).
    """
    trained = run if isinstance(run, Trained) else Trained(run, **how)
    front = trained.grid_front("validation")
    if isinstance(rule, Tensor):
        trained.check_ray(rule)
        front, ray = _looked_up(trained, front, rule, refine), rule
    elif refine:
        ray, front = search(front, rule, _evaluator(trained, show), lambda ray: trained.sensitivity("validation", ray))
    else:
        ray = rule(front)
    index = position(front, ray)
    return Choice(
        run=trained.run.path,
        checkpoint=trained.checkpoint,
        tasks=front.tasks,
        ray=front.rays[index].clone(),
        validation=measured(front, index),
        test=trained.achieved("test", front.rays[index]),
        rays=len(front),
        refined=refine,
        asked=isinstance(rule, Tensor),
    )


def _looked_up(trained: Trained, front: Front, ray: Tensor, refine: bool) -> Front:
    """The front, or that of `ray` alone where it may lie between the rays of the grid."""
    try:
        position(front, ray)
    except PaloraError as error:
        if not refine:
            raise PaloraError(f"{error} With refinement (--refine) the model is evaluated at it.") from None
        return trained.front("validation", ray[None])
    return front


def _evaluator(trained: Trained, show: Callable[[str], None]) -> Callable[[Tensor], Front]:
    def evaluate(rays: Tensor) -> Front:
        show(f"evaluating {len(rays)} {'ray' if len(rays) == 1 else 'rays'} on validation data")
        return trained.front("validation", rays)

    return evaluate

