"""`palora.check` on planted deviations, each of another kind: the first module is named, with a cause and a remedy."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from row_cases import Experts, Net, linears, randn
from torch import Tensor, nn

import palora


class Planted(NamedTuple):
    """A module that deviates, in the place of "1"; the part, the module's name and words of cause and remedy."""

    make: Callable[[], nn.Module]
    part: str
    module: str
    cause: str
    remedy: str


def _net(call: Callable[..., Any], **layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: Net(call, **layers)


class RunningMean(nn.Module):
    """Batch normalisation written out: in training by the batch's statistics, which it remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.training)


class SequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x[:, None, :].expand(-1, 3, -1).transpose(0, 1)
        return self.mix(tokens).mean(0)


class Tied(nn.Module):
    """Reads, as a table, the weight of a layer that it calls too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(6, 6), nn.Linear(6, 6, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + self.table(x.argmax(1))


def _plain(layer: Any, x: Tensor) -> Tensor:
    return F.linear(x, layer._parameters["weight"], layer.bias)


class Ignoring(nn.Module):
    """Its layer has a forward of its own, which knows no adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.fc.forward = types.MethodType(_plain, self.fc)  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Queries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries, self.project = nn.Parameter(torch.randn(6, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.project(self.queries).T).softmax(1) @ self.queries


class Shared(nn.Module):
    """One mask of dropout for the whole batch, scaled by how much of the batch survives it."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        keep = (torch.rand(len(x), 1, generator=self.generator) < x.detach().mean().sigmoid()).to(x.dtype)
        return x * keep + x / len(x)


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy - dy.mean(0)


class Memory(nn.Module):
    """Keeps what it saw, and adds the mean of that."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.bank
        self.bank = x.detach().mean(0)
        return y


class OwnGroups(nn.Module):
    """Ghost batch normalisation: statistics of four rows at a time, whoever they belong to."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part - part.mean(0) for part in x.split(4)])


class Positions(nn.Module):
    """A row's place in the batch takes part."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.arange(len(x), dtype=x.dtype, device=x.device)[:, None]


MIXES = "see each other|does not see|mixes the rows|decides by"
WHOSE = "rays with `palora.rows`|one ray at a time"
PLANTED: dict[str, Planted] = {
    "a weight that is read": Planted(
        _net(lambda m, x: F.linear(x, m.fc.weight), fc=nn.Linear(6, 6)),
        "one ray",
        "1.fc",
        "weight of '1.fc' was read.*by linear",
        "(?i)call the layer itself.*exclude",
    ),
    "softmax over the batch": Planted(_net(lambda m, x: x.softmax(0)), "stacked", "1", MIXES, WHOSE),
    "sequence first": Planted(
        SequenceFirst, "stacked", "1.mix", "sees the batch in dimension 1", r"rows=\{'1.mix': 1\}"
    ),
    "batch normalisation by a function": Planted(RunningMean, "stacked", "1", MIXES, WHOSE),
    "rows that are chosen": Planted(
        lambda: Net(lambda m, x: F.pad(m.e(x[:, :5]), (0, 3)), e=Experts(False, lambda: nn.Linear(5, 3))),
        "stacked",
        "1.e.experts.",
        "chosen by their values",
        "`palora.rows`",
    ),
    "the nearest rows of the batch": Planted(
        _net(lambda m, x: x + x[torch.cdist(x, x).fill_diagonal_(9e9).argmin(1)]), "stacked", "1", MIXES, WHOSE
    ),
    "queries that the model makes": Planted(Queries, "stacked", "1.project", "do not grow with the batch", "exclude"),
    "an adapter that is not used": Planted(Ignoring, "merged", "1.fc", "adapter is not used", "(?i)call the layer"),
    "a mask for the whole batch": Planted(Shared, "stacked", "1", MIXES, WHOSE),
    "a gradient of the batch's": Planted(
        _net(lambda m, x: WrongBackward.apply(m.fc(x)), fc=nn.Linear(6, 6)),
        "gradients",
        "1.fc",
        "backward of its own",
        "row by row|one by one",
    ),
    "a memory": Planted(Memory, "stacked", "1|2", MIXES, WHOSE),
    "groups of rows": Planted(OwnGroups, "stacked", "1", MIXES, WHOSE),
    "places in the batch": Planted(Positions, "stacked", "1", MIXES, WHOSE),
    "rows in another order": Planted(_net(lambda m, x: x[x[:, 0].argsort()]), "stacked", "1", MIXES, WHOSE),
    "the largest of the batch": Planted(_net(lambda m, x: x / x.abs().amax()), "stacked", "1", MIXES, WHOSE),
    "attention over the batch": Planted(
        _net(lambda m, x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0]), "stacked", "1", MIXES, WHOSE
    ),
    "a count of rows": Planted(_net(lambda m, x: x * len(x)), "stacked", "1", MIXES, WHOSE),
    "samples that are paired": Planted(
        _net(lambda m, x: x.view(-1, 2, 6).flip(1).reshape(-1, 6) + x.roll(1, 0)), "stacked", "1", MIXES, WHOSE
    ),
    "a branch on the batch": Planted(
        _net(lambda m, x: x.neg() if x.mean() > 0.01 else x), "stacked", "|1|2", MIXES, "one ray at a time"
    ),
    "a number for all rays": Planted(
        _net(lambda m, x: m.fc(x).mean(), fc=nn.Linear(6, 6)), "stacked", "1", "one number for all rays|see each", "."
    ),
}


@pytest.mark.parametrize("name", list(PLANTED))
def test_the_first_module_that_deviates_is_named(name: str) -> None:
    torch.manual_seed(3)
    one = PLANTED[name]
    last = nn.Identity() if name == "a number for all rays" else nn.Linear(6, 3)
    model = palora.adapt(nn.Sequential(nn.Linear(5, 6), one.make(), last), 2, 2)
    report = palora.check(model, randn(6, 5))
    text = str(report)
    assert not report.ok, text
    assert report.part == one.part, text
    places = one.module.split("|")
    assert report.module in places or any(p.endswith(".") and report.module.startswith(p) for p in places), text
    assert _has(one.cause, report.cause), text
    assert _has(one.remedy, report.remedy), text
    assert report.cause in text
    assert report.remedy in text


def _has(pattern: str, text: str) -> bool:
    return bool(text) and "\n" not in text and re.search(pattern, text) is not None


def test_a_tied_weight_is_right_or_named() -> None:
    """Merging unties, so that the table keeps its values: no deviation is left to be found."""
    report = palora.check(palora.adapt(nn.Sequential(nn.Linear(5, 6), Tied(), nn.Linear(6, 3)), 2, 2), randn(4, 5))
    assert report.ok, str(report)


class OwnDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape, generator=self.generator) < 0.5).to(x.dtype)


LEGAL: dict[str, Callable[[], nn.Module]] = {
    "a rounding to float32 and back": _net(lambda m, x: m.b(m.a(x).float().to(x.dtype)), **linears(a=(6, 6), b=(6, 6))),
    "a layer whose input is detached": _net(lambda m, x: m.a(x.detach()), **linears(a=(6, 6))),
    "an in-place change of the input": _net(lambda m, x: m.a(x.mul_(2)), **linears(a=(6, 6))),
    "dropout with a generator of its own": OwnDropout,
}


@pytest.mark.parametrize("name", list(LEGAL))
def test_what_is_legal_is_not_accused(name: str) -> None:
    model = palora.adapt(nn.Sequential(nn.Linear(5, 6), LEGAL[name](), nn.Linear(6, 3)), 2, 2)
    report = palora.check(model, randn(4, 5))
    assert report.ok, str(report)


def test_statistics_of_the_whole_batch_are_explained_not_accused() -> None:
    for norm in (nn.BatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False)):
        report = palora.check(palora.adapt(nn.Sequential(nn.Linear(5, 6), norm, nn.Linear(6, 3)), 2, 2), randn(4, 5))
        assert report.ok, str(report)
        told = [note for note in report.notes if "a ray a sample is not compared" in note]
        assert len(told) == (1 if norm.track_running_stats else 2)
        assert all("'1' normalise by the statistics of the whole batch" in note for note in told)
    report = palora.check(palora.adapt(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), 2, 2), randn(4, 5))
    assert "training: a ray a sample agrees" in report.notes


def test_an_adapter_of_a_layer_whose_forward_was_replaced_counts_as_unused() -> None:
    model = palora.adapt(Net(lambda m, x: m.a(x), **linears(a=(5, 3))), 2, 2)
    model.a.forward = lambda x: x[:, :3]  # type: ignore[method-assign]
    report = palora.check(model, randn(4, 5))
    assert report.ok or report.module == "a"
    assert not report.ok or report.unused == ["a"]
