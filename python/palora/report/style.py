"""What the figures have in common: type, lines, markers, and the two ways a value is shown."""

from __future__ import annotations

from typing import Any

from palora.evaluation.direction import is_accuracy, larger_is_better

RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "palora",  # the same picture is the same file
}
COLOURS = "viridis"
FRONT_MARKERS = ("o", "s", "^", "D", "v", "p")
FRONT_LINES: tuple[Any, ...] = ("-", "--", ":", "-.")
POINT_MARKERS = ("*", "X", "P", "d", "h", "8")
POINT_COLOURS = ("#c1272d", "#e08214", "#222222", "#8c6bb1", "#737373", "#00688b")


def shown(name: str) -> float:
    """The factor by which a value is shown: accuracies in per cent."""
    return 100.0 if is_accuracy(name) else 1.0


def label(name: str) -> str:
    """Axis label of a metric or loss "<kind>/<task>", with an arrow in the direction that is better."""
    kind, _, task = name.partition("/")
    unit = " (%)" if is_accuracy(name) else ""
    text = f"{kind}, {task}" if task else kind
    return f"{text}{unit} {'↑' if larger_is_better(name) else '↓'}"
