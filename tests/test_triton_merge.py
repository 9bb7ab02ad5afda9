"""Merging and its way back where one program has several tiles and all rays, as on a device that the tiles fill."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from palora_kernels.factors import LowRank

pytest.importorskip("triton")

from palora_kernels.triton.launching import configs, launch
from palora_kernels.triton.merge import merge
from palora_kernels.triton.merge import pull as merge_pull

# Sides of the products and shape of the kernels. Multiples of 16 where a layer has them: compilers treat those apart.
FORMS = {
    "one tap": ((64, 96), (64, 96, 1, 1)),
    "one tap, odd": ((34, 51), (34, 51, 1, 1)),
    "matricised": ((32, 144), (32, 16, 3, 3)),
    "loralib": ((96, 48), (32, 16, 3, 3)),
}


@pytest.mark.parametrize("r, splits", [(8, 1), (16, 2)])
@pytest.mark.parametrize("form", FORMS)
def test_programs_walk_tiles_and_rays(form: str, r: int, splits: int, device: str) -> None:
    (p, q), shape = FORMS[form]
    T, rays, taps = 2, 3, shape[2] * shape[3]
    made = torch.Generator().manual_seed(r)
    A, B = torch.randn(T, p, r, generator=made).to(device), torch.randn(T, r, q, generator=made).to(device)
    lam = torch.rand(rays, T, generator=made).to(device)
    dK = torch.randn(rays, splits, shape[0], taps, shape[1], generator=made).to(device)  # the taps before the channels
    factors, partial = LowRank(A, B, shape), dK.view(rays, splits, -1)
    assert merge_pull.fits(factors, partial.device) or form == "loralib"

    one = replace(configs.target_of(partial.device), processors=1)
    with configs.assume(one):
        with launch.recording() as launches:
            merge.kernels_of_rays(None, factors, lam)
            merge_pull.run(factors, partial, lam, weight=True)
        merged = merge.kernels_of_rays(None, factors, lam)
        total, (dA, dB), dlam = merge_pull.run(factors, partial, lam, weight=True)
    assert launches[0].arguments["rays_each"] == rays
    assert launches[1].arguments["tiles_each"] > 1

    exact = [t.double().requires_grad_() for t in (A, B, lam)]
    K = torch.tensordot(exact[2], exact[0] @ exact[1], dims=1).view(rays, *shape)
    G = dK.double().sum(1).transpose(2, 3).reshape(rays, *shape)
    torch.testing.assert_close(merged.permute(0, 1, 4, 2, 3).double(), K.detach(), rtol=1e-5, atol=1e-4)
    assert total is not None
    torch.testing.assert_close(total.double(), G.sum(0), rtol=1e-5, atol=1e-4)
    for found, want in zip((dA, dB, dlam), torch.autograd.grad(K, exact, G), strict=True):
        torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-3)
