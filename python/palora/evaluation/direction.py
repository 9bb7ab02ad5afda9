"""Which way a metric is good, and to which task it belongs: both follow from its name."""

from __future__ import annotations

from collections.abc import Sequence

_LOWER_IS_BETTER = ("err", "loss", "mse", "mae", "l1", "nll", "huber", "angle", "perplexity")


def larger_is_better(metric: str) -> bool:
    """False for errors and losses ("mse/torque 1", "absolute error"), True for everything else.

    Judged by the part of the name before the "/", if there is one: the rest is the name of a task.
    """
    kind = metric.split("/")[0].lower()
    return not any(word in kind for word in _LOWER_IS_BETTER)


def metrics_of_task(task: str, metrics: Sequence[str]) -> list[str]:
    """The metrics that belong to `task`: those called `task`, "<kind>/<task>" or "<task>/<kind>"."""
    return [name for name in metrics if task in (name, name.partition("/")[2], name.rpartition("/")[0])]


def is_accuracy(metric: str) -> bool:
    """Whether the name says that the metric is a share of correct answers, between 0 and 1."""
    return "acc" in metric.split("/")[0].lower()
