"""`palora.check`: right models pass, planted deviations are found, with their module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from row_cases import CASES, RAYS, Net, linears, make_adapted, randn
from torch import Tensor, nn

import palora
from palora.layers import UnsupportedModuleError


@pytest.mark.parametrize("name", list(CASES))
def test_it_agrees_with_what_becomes_of_every_case(name: str) -> None:
    one = CASES[name]
    try:
        model = make_adapted(one)
    except UnsupportedModuleError:
        return
    report = palora.check(model, one.args(), RAYS)
    assert bool(report) == (one.refusal is None), str(report)
    assert report.cause or report.ok


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Reversed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(0)


class OverBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.flatten(1).norm(dim=1).softmax(0).view(-1, *(1,) * (x.dim() - 1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        return F.scaled_dot_product_attention(q[None], q[None], q[None])[0]


class GroupBatch(nn.Module):
    """Normalises by the statistics of all rows, whoever they belong to."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x[:, 0].argsort()]


class Largest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.abs().max()


class Cumulated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(0)


class Remembered(nn.Module):
    """Adds the last row it saw in this pass to the first."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x[-1]


PLANTED: list[Callable[[], nn.Module]] = [
    Mean,
    Reversed,
    OverBatch,
    Attention,
    GroupBatch,
    Sorted,
    Largest,
    Cumulated,
    Remembered,
    lambda: nn.GLU(dim=0),
]


def _blocks(planted: nn.Module, at_block: int) -> nn.Module:
    blocks = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)]
    blocks[at_block] = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), planted)
    return nn.Sequential(nn.Linear(5, 6), *blocks, nn.Linear(6, 3))


@pytest.mark.parametrize("at_block", [0, 2])
@pytest.mark.parametrize("plant", PLANTED)
def test_a_module_that_mixes_the_batch_is_named(plant: Callable[[], nn.Module], at_block: int) -> None:
    torch.manual_seed(0)
    model = palora.adapt(_blocks(plant(), at_block), 2, 2)
    report = palora.check(model, torch.randn(4, 5))
    assert not report.ok
    assert report.module == f"{1 + at_block}.2", str(report)
    assert report.module in str(report)
    assert report.cause
    assert "\n" not in report.cause


def test_an_operation_between_two_modules_is_named_by_the_next() -> None:
    model = palora.adapt(Net(lambda m, x: m.b(m.a(x).softmax(0)), **linears(a=(5, 6), b=(6, 3))), 2, 2)
    report = palora.check(model, randn(4, 5).float())
    assert (report.ok, report.module) == (False, "b")


def test_an_operation_behind_the_last_module_is_the_models() -> None:
    model = palora.adapt(Net(lambda m, x: m.a(x).softmax(0), a=nn.Linear(5, 6)), 2, 2)
    report = palora.check(model, randn(4, 5).float())
    assert (report.ok, report.module) == (False, "")


class OddBackward(torch.autograd.Function):
    """The identity, with a gradient that is averaged over the batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy.mean(0, keepdim=True).expand_as(dy)


def test_a_gradient_that_mixes_the_batch_is_found_at_the_layer_before_it() -> None:
    call = lambda m, x: m.c(OddBackward.apply(torch.tanh(m.b(torch.tanh(m.a(x))))))  # noqa: E731
    model = palora.adapt(Net(call, **linears(a=(5, 6), b=(6, 6), c=(6, 3))), 2, 2)
    report = palora.check(model, randn(4, 5).float())
    assert (report.ok, report.part, report.module) == (False, "gradients", "b")


class OnlyTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0) if self.training else x


def test_what_differs_in_training_only() -> None:
    report = palora.check(palora.adapt(_blocks(OnlyTraining(), 1), 2, 2), randn(4, 5).float())
    assert (report.ok, report.mode, report.module) == (False, "training", "2.2")


class Counting(nn.Module):
    """A running mean of one's own: a loop over rays updates it M times."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return x


def test_a_running_statistic_of_ones_own() -> None:
    report = palora.check(palora.adapt(_blocks(Counting(), 1), 2, 2), randn(4, 5).float())
    assert (report.ok, report.part, report.module) == (False, "buffers", "2.2")


def test_a_tied_weight_differs_when_merged() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mid, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(torch.tanh(self.mid(self.embed(ids))))

    report = palora.check(palora.adapt(Tied(), 2, 2), torch.randint(9, (4, 5)))
    assert report.ok or (report.part, report.module) == ("merged", "embed")  # `merge` may untie


@pytest.mark.parametrize("name", ["LeNet", "MLP"])
def test_models_of_ours_pass_and_nothing_is_changed(name: str) -> None:
    model = palora.models.LeNet() if name == "LeNet" else palora.models.MLP(21, (8,), (1, 1))
    palora.adapt(model, 2, 2)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(3, 1, 28, 28) if name == "LeNet" else torch.randn(4, 21)
    report = palora.check(model, x)
    assert report.ok, str(report)
    assert not report.unused
    assert len(report.notes) >= 5
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_targets_rays_and_keyword_arguments() -> None:
    model = palora.adapt(Net(lambda m, x, scale: m.b(m.a(x) * scale), **linears(a=(5, 6), b=(6, 3))), 2, 2)
    inputs = {"x": torch.randn(4, 5), "scale": torch.randn(4, 1)}
    assert palora.check(model, inputs, rays=[[0.2, 0.8], [0.7, 0.3]], targets=torch.tensor([0, 2, 1, 1]))
    assert palora.check(model, inputs, targets=torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"`rays` should have shape \(M, 2\)"):
        palora.check(model, inputs, rays=[0.2, 0.8])
    with pytest.raises(ValueError, match="no adapted layers"):
        palora.check(nn.Linear(5, 3), torch.randn(4, 5))


def test_a_weight_that_the_parent_reads_is_found_at_its_layer() -> None:
    inner = Net(lambda m, x: F.linear(x, m.fc.weight), fc=nn.Linear(6, 6))
    model = palora.adapt(nn.Sequential(nn.Linear(5, 6), inner, nn.Linear(6, 3)), 2, 2)
    report = palora.check(model, torch.randn(4, 5))
    assert (report.ok, report.part, report.module) == (False, "one ray", "1.fc")
    assert "forward of '1'" in str(report)


def test_random_models_are_settled_or_passed_over() -> None:
    settled = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3))
    report = palora.check(palora.adapt(settled, 2, 2), torch.randn(4, 5))
    assert report.ok
    assert "training: gradients and buffers agree" in report.notes
    report = palora.check(
        palora.adapt(nn.Sequential(nn.Linear(5, 6), nn.RReLU(), nn.Linear(6, 3)), 2, 2), torch.randn(4, 5)
    )
    assert report.ok
    assert any(note.startswith("training: not compared") for note in report.notes)


def test_wrapped_models_are_checked_inside() -> None:
    model = torch.compile(palora.adapt(nn.Sequential(nn.Linear(5, 3)), 2, 2))
    assert palora.check(model, torch.randn(4, 5)).ok  # type: ignore[arg-type]


def test_unused_adapters_are_named() -> None:
    model = palora.adapt(Net(lambda m, x: m.a(x), **linears(a=(5, 3), b=(5, 3))), 2, 2)
    report = palora.check(model, torch.randn(4, 5))
    assert report.ok
    assert report.unused == ["b"]
    assert "never applied: the adapters of b" in str(report)
