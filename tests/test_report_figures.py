"""Figures: every ray is drawn where it belongs, and nothing outside the figure changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from palora.evaluation import Front
from palora.rays import sarcos_grid, simplex_grid
from palora.report import front_figure

TASKS = ("left", "right", "bottom", "top")


def front(tasks: int = 2, divisions: int = 10, metrics: bool = True) -> Front:
    rays = simplex_grid(tasks, divisions)
    losses = (1 - rays) ** 2 + 0.1
    if tasks == 2:
        losses[3] += 0.5  # this ray is dominated
    names = TASKS[:tasks]
    found = {f"accuracy/{name}": 1 - losses[:, t] / 4 for t, name in enumerate(names)} if metrics else {}
    return Front(rays, losses, found, names)


def point(tasks: int = 2) -> Front:
    value = torch.full((1, tasks), 0.4)
    accuracies = {f"accuracy/{name}": torch.tensor([0.9]) for name in TASKS[:tasks]}
    return Front(torch.full((1, tasks), 1 / tasks), value, accuracies, TASKS[:tasks])


def dots(axes: Axes) -> list[PathCollection]:
    return [c for c in axes.collections if isinstance(c, PathCollection) and len(np.asarray(c.get_offsets()))]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_two_tasks_have_a_panel_of_metrics_and_one_of_losses() -> None:
    data = front()
    figure = front_figure({"PaLoRA": data}, points={"LS": point(), "STL": [point(), point()]})
    accuracies, losses, bar = figure.axes
    assert accuracies.get_xlabel() == "accuracy, left (%) ↑"
    assert losses.get_ylabel() == "loss, right ↓"
    assert bar.get_ylabel() == "preference for left"
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0  (all right)", "0.5", "1  (all left)"]
    assert legend(figure) == ["PaLoRA", "dominated (on losses)", "LS", "STL"]
    for axes, values in (
        (accuracies, torch.stack(list(data.metrics.values()), 1) * 100),
        (losses, data.losses),
    ):
        drawn = np.concatenate([np.asarray(c.get_offsets()) for c in dots(axes)])
        assert sorted(map(tuple, drawn.round(4))) == sorted(map(tuple, values.double().numpy().round(4)))
        filled, hollow = dots(axes)
        assert len(np.asarray(filled.get_offsets())) == 10
        np.testing.assert_allclose(np.asarray(hollow.get_offsets()), values[3:4].numpy(), rtol=1e-6)
        np.testing.assert_allclose(np.asarray(hollow.get_facecolor()), np.asarray([to_rgba("white")]))
        markers = [line for line in axes.get_lines() if line.get_linestyle() == "None"]
        assert len(markers) == 3
        assert len({line.get_marker() for line in markers}) == 2


def test_colour_says_preference_for_the_first_task() -> None:
    losses = front_figure({"PaLoRA": front()}).axes[1]
    filled = dots(losses)[0]
    order = np.asarray(filled.get_offsets())[:, 0].argsort()  # the smallest loss on "left" has λ = 1
    colours = np.asarray(filled.get_facecolor())
    map_ = matplotlib.colormaps["viridis"]
    np.testing.assert_allclose(colours[order[0]], np.asarray(map_(1.0)))
    np.testing.assert_allclose(colours[order[-1]], np.asarray(map_(0.0)))


def test_losses_alone() -> None:
    assert len(front_figure({"PaLoRA": front()}, metrics=False).axes) == 2
    assert len(front_figure({"PaLoRA": front(metrics=False)}).axes) == 2
    assert len(front_figure(point()).axes) == 3
    assert legend(front_figure(point())) == []


def test_several_seeds_are_a_line_each() -> None:
    figure = front_figure({"PaLoRA": [front(), front(), front()], "PaMaL": front()})
    assert len(figure.axes[0].get_lines()) == 4
    assert legend(figure)[:2] == ["PaLoRA", "PaMaL"]


def test_three_tasks_are_maps_over_the_triangle() -> None:
    figure = front_figure({"PaLoRA": front(3), "PaMaL": [front(3), front(3)]}, points={"LS": point(3)})
    maps, bars = figure.axes[:6], figure.axes[6:]
    assert [bar.get_xlabel() for bar in bars] == [f"accuracy, {task} (%) ↑" for task in TASKS[:3]]
    corners = {"left": (0.5, 3**0.5 / 2), "right": (0.0, 0.0), "bottom": (1.0, 0.0)}
    for axes, task in zip(maps, TASKS[:3], strict=False):
        assert [text.get_text() for text in axes.texts if text.get_text() in TASKS] == list(TASKS[:3])
        (star,) = [c for c in dots(axes) if len(np.asarray(c.get_offsets())) == 1]
        np.testing.assert_allclose(np.asarray(star.get_offsets())[0], corners[task], atol=1e-6)
    assert all("LS" in [text.get_text() for text in bar.texts] for bar in bars)


@pytest.mark.parametrize("rays", [simplex_grid(3, 1)[:2], torch.tensor([[0.2, 0.3, 0.5]]), sarcos_grid()])
def test_anything_else_is_a_panel_a_task(rays: torch.Tensor) -> None:
    tasks = rays.shape[1]
    data = Front(rays, 1 - rays)
    figure = front_figure({"PaLoRA": data}, points={"LS": Front(data.rays[:1], data.losses[:1])})
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == tasks
    assert panels[-1].get_xlabel() == f"preference for task {tasks}"
    assert sum(len(np.asarray(c.get_offsets())) for c in dots(panels[0])) == len(rays)


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_losses_that_are_not_finite_do_not_stop_the_figure(tasks: int, tmp_path: Path) -> None:
    data = front(tasks, 4)
    losses = data.losses.clone()
    losses[1] = torch.nan
    broken = Front(data.rays, losses, tasks=data.tasks)
    front_figure({"a": broken}, tmp_path / "a.png")
    front_figure({"a": Front(data.rays, losses * torch.nan, tasks=data.tasks)}, tmp_path / "b.png")


@pytest.mark.parametrize("suffix, start", [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_files_are_written_and_repeatable(tmp_path: Path, suffix: str, start: bytes) -> None:
    for name in "ab":
        front_figure({"PaLoRA": front(3)}, tmp_path / "new" / f"{name}.{suffix}", title="three tasks")
    first, second = ((tmp_path / "new" / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first.startswith(start)
    assert first == second


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"`path` should end in \.pdf, \.png, \.svg"):
        front_figure({"a": front()}, "front.doc")
    with pytest.raises(ValueError, match="at least one front"):
        front_figure({})
    with pytest.raises(ValueError, match="same tasks"):
        front_figure({"a": front()}, points={"LS": point(3)})


def test_backend_and_settings_of_the_caller_are_left_alone() -> None:
    code = (
        "import sys, matplotlib, torch; matplotlib.use('svg'); before = dict(matplotlib.rcParams)\n"
        "from palora.report import front_figure; from palora.evaluation import Front\n"
        "front_figure({'a': Front(torch.eye(2), torch.eye(2))})\n"
        "assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == 'svg'\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
