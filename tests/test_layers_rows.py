"""Whose rows are whose: stacked rays as a loop over merged models, or one sentence."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from row_cases import CASES, RAYS, make_adapted

import palora


def _dimension(found: torch.Tensor, loop: torch.Tensor) -> int:
    """Outputs of sequence-first models have the batch in dimension 1."""
    return 0 if found.shape[0] == len(RAYS) * loop.shape[0] else 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_as_the_loop_or_refused(name: str, training: bool) -> None:
    one = CASES[name]
    if one.refusal is not None:
        with pytest.raises((ValueError, TypeError), match=one.refusal) as caught:
            _stacked(one, training)
        assert "\n" not in str(caught.value)
        return
    found, model, args = _stacked(one, training)
    loop = [palora.merge(model, ray)(*copy.deepcopy(args)) for ray in RAYS]
    torch.testing.assert_close(found, torch.cat(loop, dim=_dimension(found, loop[0])), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", [name for name, one in CASES.items() if "sequence-first from its input" not in name])
def test_with_a_ray_a_sample_as_each_sample_at_its_ray_or_refused(name: str) -> None:
    one = CASES[name]
    try:
        model = make_adapted(one).eval()
        args = one.args()
        n = next(iter(model._forward_pre_hooks.values())).rules.growth(args, {}).rows
        rays = torch.rand(n, 2, dtype=torch.float64)
        with palora.at(model, rays, per_sample=True):
            found = model(*copy.deepcopy(args))
    except (ValueError, TypeError):
        assert one.refusal is not None
        return
    assert one.refusal is None
    k = found.shape[0] // n
    for i, ray in enumerate(rays):
        rows = slice(i * k, (i + 1) * k)
        torch.testing.assert_close(found[rows], palora.merge(model, ray)(*copy.deepcopy(args))[rows])


def _stacked(one: Any, training: bool) -> tuple[torch.Tensor, torch.nn.Module, tuple[Any, ...]]:
    model = make_adapted(one).train(training)
    args = one.args()
    with palora.at(model, RAYS):
        return model(*copy.deepcopy(args)), model, args
