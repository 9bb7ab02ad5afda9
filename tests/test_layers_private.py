"""The private functions of PyTorch behind `palora.at`: this release has them, and one that had not would say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import palora
from palora.layers import private

ROOT = Path(palora.__file__).parent


class _Seen(torch.autograd.Function):
    """The identity, whose backward writes down what `private` says there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: list[tuple[int, int | None]]) -> Tensor:
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.seen.append((private.graph_task(), private.differentiated_number()))
        return grad, None


def test_a_backward_and_its_node_are_told_from_a_forward() -> None:
    seen: list[tuple[int, int | None]] = []
    assert private.graph_task() == -1
    x = torch.ones(2, requires_grad=True)
    first = private.next_number()
    y = _Seen.apply(x, seen)
    last = private.next_number()
    y.sum().backward()
    [(task, number)] = seen
    assert task >= 0
    assert number is not None
    assert first <= number < last
    assert private.graph_task() == -1


@pytest.mark.parametrize("name", ["_current_graph_task_id", "_autograd._get_sequence_nr", "_current_autograd_node"])
def test_a_release_without_one_of_them_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert private.find(name) is not None
    owner, _, last = f"torch._C.{name}".rpartition(".")
    monkeypatch.delattr(f"{owner}.{last}")
    with pytest.raises(RuntimeError, match=rf"PyTorch {torch.__version__.split('+')[0]}.* has no torch\._C\.{name}"):
        private.find(name)()


def test_at_raises_rather_than_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    model = palora.adapt(nn.Sequential(nn.Linear(3, 2)), 2, 1)
    monkeypatch.setattr(private, "graph_task", private.find("_no_such_function"))
    with pytest.raises(RuntimeError, match="_no_such_function"), palora.at(model, (0.5, 0.5)):
        pass


def test_no_other_file_calls_private_functions() -> None:
    users = [p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py") if "torch._C" in p.read_text()]
    assert users == ["layers/private.py"]
