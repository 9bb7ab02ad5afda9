"""A method says whether its steps can be captured in a CUDA graph: that those which do need nothing of the host.

The model, its batch and its rays lie on the device "meta", which computes no values: to read one fails, and what comes
from the host is seen beside it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from palora import methods, models
from palora.data import TaskSpec
from palora.engine.chunking import accumulate
from palora.engine.losses import loss_fn
from palora.engine.watch import Watch
from palora.methods import Method

TASKS = [TaskSpec(name, loss="cross_entropy", metric="accuracy", outputs=10) for name in ("left", "right")]


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch cannot tell of "meta" whether there is autocast."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)


def needs_of_a_step(method: Method, chunk: int | None = None) -> list[str]:
    """What gradients of a step of LeNet need of the host."""
    model = method.adapt(models.build("lenet")).to("meta").train()
    inputs = torch.empty(4, 1, 28, 28, device="meta")
    targets = [torch.empty(4, dtype=torch.long, device="meta") for _ in range(2)]
    rays = method.rays(0.5).to("meta")

    def losses_at(group: Tensor) -> Tensor:
        m = len(group)
        rows = [output.flatten(0, 1) for output in method.forward(model, inputs, group)]
        return loss_fn(TASKS)(rows, [target.repeat(m) for target in targets]).unflatten(0, (m, 4)).mean(1)

    with Watch() as seen:
        try:
            losses = accumulate(method, model, losses_at, rays, chunk)
        except NotImplementedError as error:
            return [str(error)]
    assert losses.shape == rays.shape
    assert any(parameter.grad is not None for parameter in model.parameters())
    return seen.found


def case(name: str, packages: tuple[str, ...] = (), **options: Any) -> Any:
    words = [name, *(f"{key}={value}" for key, value in options.items())]
    return pytest.param(name, options, id=" ".join(words), marks=pytest.mark.needs(*packages))


TORCHJD = ("torchjd",)


@pytest.mark.parametrize(
    "name, options",
    [
        case("ls"),
        case("stl"),
        case("uw", TORCHJD),
        case("rlw", TORCHJD),
        case("palora"),
        case("palora", family="dora"),
        case("palora", form="matricised", schedule="dirichlet"),
        case("palora", balance="gradient-last"),
        case("pamal"),
        case("pamal", balance="gradient-last"),
        case("cosmos"),
        case("phn-ls"),
    ],
)
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_step_that_can_be_captured_needs_nothing_of_the_host(
    name: str, options: dict[str, Any], chunk: int | None
) -> None:
    method = methods.build(name, 2, options)
    assert method.capturable
    assert type(method).after_step is Method.after_step or options.get("balance") != "loss"
    assert needs_of_a_step(method, chunk) == []


@pytest.mark.parametrize(
    "name, options",
    [
        case("palora", balance="gradient"),
        case("palora", balance="loss"),
        case("pamal", regularisation=1.0),
        case("pamal", weighting="0.9,0.1; 0.2,0.8"),
        case("dwa"),
        case("mgda", TORCHJD),
        case("nash"),
        case("autolambda"),
        case("graddrop", TORCHJD),
        case("phn-epo", ("scipy",)),
    ],
)
def test_one_that_needs_the_host_says_so(name: str, options: dict[str, Any]) -> None:
    method = methods.build(name, 2, options)
    assert not method.capturable
    assert needs_of_a_step(method)


def test_one_that_counts_its_steps_says_so() -> None:
    """RotoGrad takes the norms of one step, by number, as those to compare with."""
    assert not methods.build("rotograd", 2).capturable


def test_members_that_are_not_tasks_mix_on_the_host() -> None:
    assert not methods.build("pamal", 2, {"members": 3}).capturable
