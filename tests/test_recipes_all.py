"""Every recipe is complete, and those of the dense and small sets train a few steps on generated data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("PIL")

import frame_fixtures as made
import torch
from torch import nn

import palora
from palora import data, methods, models, recipes
from palora.data import Dataset, Split, TaskSpec
from palora.engine import evaluate, read_metrics, train
from palora.engine.grids import grid_of
from palora.engine.losses import loss_fn, measures, metric_fn
from palora.errors import PaloraError

SHAPES = {  # data set → shape of one input, tasks
    "multimnist": ((1, 28, 28), 2),
    "multimnist-small": ((1, 28, 28), 2),
    "multimnist3": ((1, 28, 28), 3),
    "multi-fashion": ((1, 28, 28), 2),
    "fashion-and-mnist": ((1, 28, 28), 2),
    "census": ((468,), 2),
    "sarcos": ((21,), 7),
    "utkface": ((3, 64, 64), 3),
    "cityscapes": ((3, 32, 64), 2),
    "nyuv2": ((3, 32, 64), 3),
}


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_names_what_exists(name: str) -> None:
    recipe = recipes.get(name)
    shape, tasks = SHAPES[recipe.dataset]
    assert recipe.dataset in data.names()
    assert recipe.source.endswith((".", ")"))
    assert recipe.takes
    with torch.device("meta"):
        model = models.build(recipe.model, **recipe.model_options).eval()
        outputs = model(torch.empty(1, *shape))
    assert len(outputs) == tasks
    for method in methods.names():
        config = recipe.configure(method=method)
        saved = json.loads(json.dumps(config.to_dict()))
        assert type(config).from_dict(saved).to_dict() == saved
    assert set(recipe.method_options) <= set(methods.names())
    grid = grid_of(methods.build("palora", tasks, config_options(recipe)), recipe.configure(method="palora"))
    assert grid.shape == ({7: 100, 3: 66, 2: 11}[tasks] if recipe.divisions == 10 else 6, tasks)


def config_options(recipe: recipes.Recipe) -> dict[str, object]:
    return recipe.configure(method="palora").method_options


def test_settings_where_papers_and_code_are_quoted() -> None:
    steps = -(-40_036 // 512) * 100
    reduced = recipes.get("sarcos-reduced")
    assert -(-3_114 // 512) * reduced.epochs == pytest.approx(8_700, abs=10)
    assert steps == pytest.approx(8_700, rel=0.1)
    assert reduced.reference == (1, 5, 1, 1, 10, 10, 1)
    city, rooms = recipes.get("cityscapes"), recipes.get("nyuv2")
    assert (city.batch, city.lr, city.lr_milestones, city.epochs) == (8, 1e-4, (75,), 100)
    assert (rooms.batch, rooms.lr, rooms.lr_milestones, rooms.epochs) == (2, 1e-4, (100,), 200)
    assert city.configure().method_options["rays"] == 5
    assert rooms.configure().method_options["rays"] == 6
    assert recipes.get("utkface").configure(method="pamal").method_options["balance"] == "gradient"


def test_the_sarcos_grid_is_for_methods_that_hold_a_front_of_seven() -> None:
    config = recipes.get("sarcos").configure(method="ls")
    assert len(grid_of(methods.build("ls", 7), config)) == 1
    with pytest.raises(PaloraError, match="for 7 tasks; there are 2"):
        grid_of(methods.build("palora", 2), recipes.get("multimnist").configure(grid="sarcos"))
    with pytest.raises(ValueError, match="`grid`"):
        recipes.get("multimnist").configure(grid="square")


class TinyDense(models.MultiTaskModel):
    """A trunk of one convolution with batch normalisation: SegNet's interface in a thousandth of its time."""

    def __init__(self, outputs: tuple[int, ...]) -> None:
        trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        super().__init__(trunk, [nn.Conv2d(8, width, 1) for width in outputs])

    @property
    def last_shared_layer(self) -> nn.Module:
        return self.trunk.get_submodule("0")


@pytest.mark.parametrize("name, method", [("cityscapes", "palora"), ("nyuv2", "palora"), ("cityscapes", "ls")])
@pytest.mark.needs("moocore")
def test_dense_sets_train_and_evaluate(name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The MTAN layout from files to front.json: a fixture, frames made of noise."""
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))
    root = (made.cityscapes if name == "cityscapes" else made.nyuv2)(tmp_path / "data")
    recipe = recipes.get(name)
    outputs = recipe.model_options["outputs"]
    config = recipe.configure(
        method=method,
        method_options={"rank": 1, "rays": 2} if method == "palora" else {},
        epochs=2,
        lr=1e-2,
        divisions=1,
        validate_every=1,
        log_every=1,
        data=str(root),
    )
    run = train(config, tmp_path / "run", make_model=lambda: TinyDense(outputs))
    epochs = [record for record in read_metrics(run.path) if record["kind"] == "epoch"]
    result = evaluate(run.path, make_model=lambda: TinyDense(outputs))
    front = result.front
    assert len(front) == (len(outputs) if method == "palora" else 1)
    kinds = {"cityscapes": 2 + 4, "nyuv2": 2 + 4 + 5}[name]
    assert len(front.metrics) == len(epochs[-1]["validation"]["metrics"]) == kinds
    assert all(values.isfinite().all() for values in front.metrics.values())
    assert 0 < front.metrics["miou/semantic"][0] < 0.5
    assert result.summary["best_of_grid"]["abs error/depth"]["value"] == front.metrics["abs error/depth"].min()
    assert palora.Front.load(run.front_file) == front


@pytest.mark.needs("moocore")
def test_seven_torques_train_and_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tuple(TaskSpec(f"torque {t + 1}", "mse", "mse", 1) for t in range(7))

    def split(rows: int) -> Split:
        x = torch.randn(rows, 21, generator=torch.Generator().manual_seed(rows))
        return Split(x, tuple(x[:, t : t + 1] * 0.5 for t in range(7)))

    made_up = Dataset("sarcos", split(64), split(16), split(32), tasks, "made up.")
    monkeypatch.setattr(data, "load", lambda *args, **options: made_up)
    config = recipes.get("sarcos").configure(epochs=2, validate_every=2)
    run = train(config, tmp_path / "run")
    result = evaluate(run.path)
    assert len(result.front) == 100
    assert result.summary["hypervolume"]["losses_reference"] == [1, 5, 1, 1, 10, 10, 1]
    assert result.summary["hypervolume"]["losses"] > 0
    assert all(result.summary["fixed_rays"].values()), "vertices and centre too"


@pytest.mark.parametrize("name", recipes.names())
def test_losses_and_metrics_of_every_set_have_definitions(name: str) -> None:
    from palora.data import census, cityscapes, nyuv2, sarcos, utkface

    known = {module.__name__.split(".")[-1]: module.TASKS for module in (census, cityscapes, nyuv2, sarcos, utkface)}
    tasks = known.get(recipes.get(name).dataset, (TaskSpec("digit", "cross_entropy", "accuracy", 10),))
    loss_fn(tasks)
    metric_fn(tasks)
    assert len(measures(tasks)) + sum(task.metric in ("accuracy", "mse", "huber") for task in tasks) == len(tasks)
