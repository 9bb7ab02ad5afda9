"""Figures of three and more tasks, of training, of schedules and of scenes: what is drawn is what was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

import frame_fixtures as made
import numpy as np
import torch
from matplotlib.colors import to_rgb

from palora import recipes
from palora.engine import evaluate, train
from palora.evaluation import Front
from palora.models import MultiTaskModel
from palora.rays import sarcos_grid, schedules, simplex_grid
from palora.report.curves import convergence_figure, hypervolume_figure
from palora.report.from_runs import draw_runs
from palora.report.parallel import parallel_figure
from palora.report.rays import TIMES, lattice_figure
from palora.report.scenes import scene_figure
from palora.report.solid import VERTICES, space_figure


def front(tasks: int) -> Front:
    rays = sarcos_grid() if tasks == 7 else simplex_grid(tasks, 4)
    losses = (1 - rays) ** 2 + 0.1
    losses[2] += 0.7  # dominated
    names = tuple(f"task {t}" for t in range(tasks))
    return Front(rays, losses, {f"accuracy/{name}": 1 - losses[:, t] / 2 for t, name in enumerate(names)}, names)


def one(tasks: int) -> Front:
    whole = front(tasks)
    return Front(whole.rays[:1], whole.losses[:1] + 0.2, {}, whole.tasks)


def test_the_front_in_space(tmp_path: Path) -> None:
    data = front(3)
    figure = space_figure({"palora": data}, tmp_path / "space.png", metrics=False, points={"ls": one(3)})
    assert (tmp_path / "space.png").stat().st_size > 5_000
    axes = figure.axes[0]
    solid, hollow = axes.collections[:2]
    good = data.nondominated().numpy()
    assert good.sum() < len(good)
    drawn = np.stack(solid._offsets3d).T
    np.testing.assert_allclose(drawn[np.lexsort(drawn.T)], (p := data.losses[good].numpy())[np.lexsort(p.T)])
    assert len(np.stack(hollow._offsets3d).T) == (~good).sum()
    with pytest.raises(ValueError, match="three tasks"):
        space_figure(front(2))


def test_parallel_coordinates(tmp_path: Path) -> None:
    data, control = front(7), one(7)
    figure = parallel_figure({"palora": data}, tmp_path / "parallel.svg", points={"ls": control})
    axes = figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 7]
    assert len(lines) == 100 + 1
    both = torch.cat([data.losses, control.losses]).double()
    low, high = both.amin(0), both.amax(0)
    for row in (0, 50, 99):
        expected = (high - data.losses[row].double()) / (high - low)
        np.testing.assert_allclose(lines[row].get_ydata(), expected, atol=1e-6)
    dominated = lines[2].get_alpha()
    assert dominated < lines[0].get_alpha()
    favourites = data.rays.argmax(1)
    colours = {int(task): lines[row].get_color() for row, task in enumerate(favourites)}
    assert len(set(colours.values())) == len(colours) > 1


def write_run(folder: Path, scale: float) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for epoch in (1, 2, 3):
        record = {"kind": "epoch", "epoch": epoch, "step": 10 * epoch, "losses": [scale / epoch, 3 * scale / epoch]}
        if epoch != 2:
            validation = {"rays": [[1.0, 0.0], [0.0, 1.0]], "losses": [], "metrics": {}}
            record["validation"] = {"hypervolume": scale * epoch, "nondominated": epoch + 1, **validation}
        step = {"kind": "step", "epoch": epoch, "step": 10 * epoch - 5, "tau": 0.0, "lr": 0.1, "rays": [], "losses": []}
        lines += [step, record]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "ep')
    return folder


def test_curves_are_the_means_of_the_seeds(tmp_path: Path) -> None:
    seeds = [write_run(tmp_path / f"run{i}", scale) for i, scale in enumerate((1.0, 2.0))]
    axes = hypervolume_figure({"palora": seeds}, tmp_path / "hv.pdf").axes[0]
    assert axes.lines[0].get_xdata().tolist() == [10, 30]
    assert axes.lines[0].get_ydata().tolist() == [1.5, 4.5]
    vertices = axes.collections[0].get_paths()[0].vertices
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == (1, 6)
    loss, count = convergence_figure({"palora": seeds, "one": seeds[0]}).axes
    assert loss.lines[0].get_ydata().tolist() == pytest.approx([3, 1.5, 1])
    assert loss.lines[1].get_ydata().tolist() == pytest.approx([2, 1, 2 / 3])
    assert count.lines[0].get_xdata().tolist() == [1, 3]
    assert count.lines[0].get_ydata().tolist() == [2, 4]
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="at least one epoch"):
        hypervolume_figure({"palora": empty})
    with pytest.raises(ValueError, match="should end in"):
        hypervolume_figure({"palora": seeds}, tmp_path / "hv.gif")


def test_the_lattice_shows_the_rays_of_the_schedule() -> None:
    figure = lattice_figure(rays=(3, 10))
    assert len(figure.axes) == 2 * (1 + len(TIMES))
    last = figure.axes[-1].collections[0]
    rays = schedules.Annealed(3, 10)(1.0).double()
    height = 3**0.5 / 2
    expected = np.stack([rays[:, 0] * 0.5 + rays[:, 2], rays[:, 0] * height], 1)
    np.testing.assert_allclose(last.get_offsets(), expected, atol=1e-6)
    np.testing.assert_allclose(last.get_facecolors()[:, :3], (rays @ VERTICES).clamp(0, 1), atol=1e-6)


def test_scenes_show_truth_and_answers_in_one_scale() -> None:
    label = torch.tensor([[0, 1, -1], [2, 2, 0]])
    depth = torch.tensor([[[1.0, 2.0, 0.0], [3.0, 5.0, 1.0]]])
    normal = torch.zeros(3, 2, 3)
    normal[2] = -1
    rays = simplex_grid(3, 1)
    scores = torch.nn.functional.one_hot(label.clamp(min=0), 3).movedim(-1, 0).float().expand(3, 3, 2, 3)
    figure = scene_figure(
        torch.rand(3, 2, 3),
        [label, depth, normal],
        [scores, depth.expand(3, 1, 2, 3), 2 * normal.expand(3, 3, 2, 3)],
        rays,
        ("semantic", "depth", "normals"),
    )
    panels = np.reshape(figure.axes, (3, 5))[:, 1:]
    pictures = [[np.asarray(axes.images[0].get_array()) for axes in row] for row in panels]
    valid = {0: (label >= 0).numpy(), 1: (depth[0] != 0).numpy(), 2: np.ones((2, 3), bool)}
    for row, mask in valid.items():
        truth, *answers = pictures[row]
        assert (truth[~mask] == 1).all(), "white where there is no truth"
        for answer in answers:
            np.testing.assert_allclose(truth[mask], answer[mask], atol=1e-6)
    assert pictures[2][0][0, 0].tolist() == [0.5, 0.5, 1.0], "towards the camera"
    assert not np.allclose(pictures[0][0][0, 0], to_rgb("white"))
    with pytest.raises(ValueError, match="should be as many"):
        scene_figure(torch.rand(3, 2, 3), [label], [scores], rays, ("semantic",))


class TinyDense(MultiTaskModel):
    """One convolution and a head per task."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Conv2d(3, 4, 3, padding=1), [torch.nn.Conv2d(4, width, 1) for width in (7, 1)])


@pytest.mark.needs("moocore")
def test_every_figure_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("palora.models.build", lambda *args, **options: TinyDense())
    root = made.cityscapes(tmp_path / "data")
    runs = {}
    for method, options in (("palora", {"rays": 2, "balance": "none"}), ("ls", {})):
        settings = {"epochs": 1, "divisions": 2, "validate_every": 1, "data": str(root), "lr": 1e-2}
        config = recipes.get("cityscapes").configure(method=method, method_options=options, **settings)
        run = train(config, tmp_path / method)
        evaluate(run.path)
        runs[method] = [run.path]
    drawn = draw_runs(runs, tmp_path / "figures", scene=1)
    assert [path.name for path in drawn] == [
        "hypervolume.png",
        "convergence.png",
        "front.png",
        "scene-palora.png",
        "scene-ls.png",
    ]
    assert all(path.stat().st_size > 2_000 for path in drawn)
