"""The illustrative problem: its known front, and who finds it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from method_cases import case

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from palora import methods, toy
from palora.cli import main
from palora.errors import PaloraError
from palora.evaluation import nondominated
from palora.report.trajectories import trajectory_figure


def paper(x: float, y: float) -> tuple[float, float]:
    """The losses as the appendix prints them, term by term."""
    f1 = math.log(max(abs(0.5 * (-x - 7) - math.tanh(-y)), 5e-6)) + 6
    f2 = math.log(max(abs(0.5 * (-x + 3) - math.tanh(-y) + 2), 5e-6)) + 6
    g1 = ((-x + 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
    g2 = ((-x - 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
    c1, c2 = max(math.tanh(0.5 * y), 0), max(math.tanh(-0.5 * y), 0)
    return c1 * f1 + c2 * g1, c1 * f2 + c2 * g2


@pytest.mark.parametrize("theta", [*toy.STARTS, (3.0, -6.0), (-7.0, 20.0)])
def test_losses_are_those_of_the_paper(theta: tuple[float, float]) -> None:
    point = torch.tensor(theta, dtype=torch.float64)
    torch.testing.assert_close(toy.losses(point), torch.tensor(paper(*theta), dtype=torch.float64))
    torch.testing.assert_close(
        toy.losses(point, 0.1), torch.tensor([0.1, 1.0], dtype=torch.float64) * toy.losses(point)
    )


def test_the_front_is_stationary_and_nothing_dominates_it() -> None:
    theta = toy.pareto_set(21).requires_grad_()
    one, two = toy.losses(theta).unbind(-1)
    weight = torch.linspace(0, 1, 21, dtype=torch.float64)
    (slope,) = torch.autograd.grad((weight * one + (1 - weight) * two).sum(), theta)
    assert slope.abs().max() < 1e-9
    front = toy.pareto_front(1.0, 201)
    assert nondominated(front).all()
    side = torch.linspace(-12, 12, 241, dtype=torch.float64)
    everywhere = toy.losses(torch.cartesian_prod(side, side))
    behind = (everywhere[:, None] - front[::10]).amax(-1)  # how much worse in the worse of the two
    assert behind.min() > -1e-6
    torch.testing.assert_close(toy.pareto_front(0.1), toy.pareto_front() * torch.tensor([0.1, 1.0]).double())


@pytest.mark.needs("moocore")
def test_igd_plus_knows_a_perfect_front_a_part_and_a_point() -> None:
    def descent(points: torch.Tensor) -> toy.Descent:
        rays = torch.full_like(points, 0.5)
        return toy.Descent("any", (0.0, 0.0), 0.1, torch.tensor([0]), rays, points[None])

    front = toy.pareto_front(0.1)
    assert descent(front).igd_plus() == descent(front).gap() == 0
    part, point = descent(front[:150]), descent(front[100:101])
    assert 0.01 < part.igd_plus() < point.igd_plus() < 0.3
    assert part.gap() == point.gap() == 0  # on the front, but not all of it
    side = front.amax(0) - front.amin(0)
    shifted = descent(front + 0.1 * side)
    assert 0.02 < shifted.igd_plus() < shifted.gap() < 0.15


@pytest.mark.parametrize("start", [(-8.5, 7.5), (9.0, -1.0)])
@pytest.mark.parametrize(("name", "options"), [("palora", {"rays": 3}), ("pamal", {"window": 3})])
@pytest.mark.needs("moocore")
def test_balancing_recovers_the_front(name: str, options: dict[str, int], start: tuple[float, float]) -> None:
    balanced = toy.descend(name, start, scale=0.1, steps=250, options={**options, "balance": "gradient"})
    assert balanced.igd_plus() < 0.01
    assert balanced.steps[0] == 0
    assert balanced.steps[-1] == 250
    assert balanced.losses.shape == (len(balanced.steps), 41, 2)


@pytest.mark.needs("moocore")
def test_without_balancing_the_large_loss_wins() -> None:
    descent = toy.descend("palora", (-8.5, 7.5), scale=0.1, steps=250, options={"rays": 3})
    assert descent.igd_plus() > 0.02
    equal = toy.descend("palora", (-8.5, 7.5), scale=1.0, steps=250, options={"rays": 3})
    assert equal.igd_plus() < 0.01  # with equal scales there is nothing to balance


@pytest.mark.parametrize("name", [case(name) for name in toy.suited()])
def test_every_method_but_two_can_run(name: str) -> None:
    descent = toy.descend(name, (0.0, 0.0), steps=8, options=toy.options_for(name, {}))
    assert descent.losses.isfinite().all()
    assert len(descent.rays) == len(methods.build(name, 2).evaluation_rays(40))
    assert set(toy.suited()) == set(methods.names()) - {"rotograd", "phn-epo"}


@pytest.mark.parametrize("name", [case("mgda"), case("nash"), case("imtl")])
def test_single_points_end_on_the_front(name: str) -> None:
    assert toy.descend(name, (-7.5, -0.5), scale=0.1, steps=400).gap() < 0.05


def test_unsuited_methods_say_why() -> None:
    with pytest.raises(PaloraError, match="'rotograd' cannot run on this problem: it rotates features"):
        toy.descend("rotograd", (0.0, 0.0))


@pytest.mark.needs("moocore")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "toy",
        "--method",
        "palora",
        "--method",
        "ls",
        "--set",
        "rays=3",
        "--steps",
        "10",
        "--starts",
        "2",
    ]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert "IGD+" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "toy.json").read_text())
    assert [(n["method"], n["start"]) for n in numbers] == [
        (name, list(start)) for name in ("palora", "ls") for start in toy.STARTS[:2]
    ]
    assert len(numbers[0]["final"]) == 41
    assert len(numbers[-1]["final"]) == 1
    assert (tmp_path / "toy.png").stat().st_size > 10_000
    assert (tmp_path / "toy.pdf").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "rays"], "--set should look like name=value"),
        (["--set", "ranks=2"], "There is no setting 'ranks'. Did you mean rank"),
        (["--set", "rank=two"], "`rank` should be a int. Found 'two'"),
        (["--set", "rank=1,2"], "--set rank takes one value here"),
        (["--starts", "6"], "`starts` should lie in 1 … 5. Found 6"),
        (["--method", "rotograd"], "cannot run on this problem"),
    ],
)
@pytest.mark.needs("moocore")
def test_wrong_words_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["toy", *words, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_figure_has_a_panel_for_each_method() -> None:
    descents = [toy.descend(name, (0.0, 0.0), steps=4) for name in ("ls", "palora", "ls")]
    figure = trajectory_figure(descents)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["ls", "palora"]
    with pytest.raises(ValueError, match="at least one descent"):
        trajectory_figure([])
