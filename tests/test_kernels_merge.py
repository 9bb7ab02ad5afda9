"""`merge`: one weight or many, added wide and rounded once."""

from __future__ import annotations

import pytest
import torch

import palora_kernels as pk


def test_one_ray_and_many() -> None:
    W, A, B = torch.randn(4, 6), torch.randn(3, 4, 2), torch.randn(3, 2, 6)
    lam = torch.rand(5, 3)
    many = pk.merge(W, A, B, lam)
    assert many.shape == (5, 4, 6)
    for m in range(5):
        torch.testing.assert_close(many[m], W + sum(lam[m, t] * A[t] @ B[t] for t in range(3)))
        torch.testing.assert_close(pk.merge(W, A, B, lam[m]), many[m])


def test_convolution_kernels_in_both_forms() -> None:
    W = torch.randn(6, 2, 3, 3)
    for A, B in (
        (torch.randn(2, 6, 1), torch.randn(2, 1, 18)),
        (torch.randn(2, 9, 3), torch.randn(2, 3, 12)),  # loralib, two groups
    ):
        lam = torch.rand(2)
        expected = W + (lam[0] * A[0] @ B[0] + lam[1] * A[1] @ B[1]).view_as(W)
        torch.testing.assert_close(pk.merge(W, A, B, lam), expected)


def test_small_deltas_survive_bfloat16() -> None:
    """Two deltas of half a rounding step each: adding in bf16 loses both, adding wide keeps their sum."""
    W = torch.ones(1, 1, dtype=torch.bfloat16)
    half_step = 2.0**-8
    A = torch.full((4, 1, 1), half_step / 2, dtype=torch.bfloat16)
    B = torch.ones(4, 1, 1, dtype=torch.bfloat16)
    merged = pk.merge(W, A, B, torch.ones(4))
    assert merged.dtype == torch.bfloat16
    assert merged.item() == 1 + 2 * half_step


def test_gradcheck() -> None:
    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((4, 6), (3, 4, 2), (3, 2, 6))]
    assert torch.autograd.gradcheck(pk.merge, (*args, torch.rand(5, 3, dtype=torch.float64, requires_grad=True)))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="`weight` should have 24 elements"):
        pk.merge(torch.randn(5, 5), torch.randn(3, 4, 2), torch.randn(3, 2, 6), torch.rand(3))
    with pytest.raises(ValueError, match="one slice a task"):
        pk.merge(torch.randn(4, 6), torch.randn(3, 4, 2), torch.randn(3, 2, 6), torch.rand(2))
