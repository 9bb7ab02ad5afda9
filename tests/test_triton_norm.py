"""Batch normalisation of M rays in one pass against torch's own, ray by ray in float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from layer_cases import randomise_adapters
from torch import Tensor, nn
from triton_cases import LAYOUTS, laid_out, poisoned_memory

import palora

pytest.importorskip("triton")

from palora_kernels.batch_norm import Running, ray_batch_norm
from palora_kernels.triton import norm
from palora_kernels.triton.launching import configs, launch

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
SHAPES = {  # M, then that of one ray
    "rows": (3, (7, 5)),
    "many rows, channels": (2, (300, 70)),
    "planes": (2, (3, 5, 4, 7)),
    "large planes": (2, (2, 3, 40, 33)),
    "many rays": (9, (2, 17, 3)),
    "volumes": (2, (2, 3, 2, 3, 4)),
    "one sample": (4, (1, 6, 5, 5)),
}


@pytest.fixture(autouse=True)
def triton_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_BACKEND", "triton")


def definition(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running: list[Tensor] | None, rays: int, momentum: float
) -> Tensor:
    """Float64; ``running`` is updated."""
    mean, var = running or (None, None)
    return torch.cat([F.batch_norm(part, mean, var, weight, bias, True, momentum, 1e-5) for part in x.chunk(rays)])


def compare(
    shape: tuple[int, ...],
    rays: int,
    dtype: torch.dtype,
    device: str,
    *,
    layout: str = "contiguous",
    affine: bool = True,
    shift: float = 0.0,
    channels_last: bool = False,
) -> None:
    made = torch.Generator().manual_seed(7)
    x = (torch.randn(rays * shape[0], *shape[1:], generator=made) * 2 + shift).to(dtype)
    grad = torch.randn(x.shape, generator=made).to(dtype)
    C = shape[1]
    weight, bias = torch.rand(C, generator=made) + 0.5, torch.randn(C, generator=made)
    stats = [torch.randn(C, generator=made), torch.rand(C, generator=made)]
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    wanted_stats = [t.double() for t in stats]
    want = definition(exact[0], *(exact[1:] if affine else (None, None)), wanted_stats, rays, 0.3)
    want_grads = torch.autograd.grad(want, exact if affine else exact[:1], grad.double())

    mine = laid_out(x, layout).to(device)
    if channels_last:
        mine = mine.contiguous(memory_format=torch.channels_last)
    inputs = [t.detach().requires_grad_() for t in (mine, weight.to(device), bias.to(device))]
    found_stats = [t.clone().to(device) for t in stats]
    with poisoned_memory():
        pair = inputs[1:] if affine else (None, None)
        found = ray_batch_norm(inputs[0], *pair, Running(*found_stats, None), rays, 0.3, 1e-5)
        assert type(found.grad_fn).__name__ == "_FusedBackward"
        found_grads = torch.autograd.grad(found, inputs if affine else inputs[:1], laid_out(grad, layout).to(device))
    assert found.dtype == dtype
    if channels_last:
        assert found.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip((found, *found_grads, *found_stats), (want, *want_grads, *wanted_stats), strict=True):
        scale = b.abs().max().clamp(min=1.0)
        assert float((a.detach().double().cpu() - b).abs().max() / scale) < TOLERANCE[dtype] * (1 + abs(shift))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_equals_torch_ray_by_ray(name: str, dtype: torch.dtype, device: str) -> None:
    rays, shape = SHAPES[name]
    compare(shape, rays, dtype, device)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str, device: str) -> None:
    compare((3, 5, 4, 7), 2, torch.float32, device, layout=layout)
    compare((6, 5), 2, torch.float32, device, layout=layout)


@pytest.mark.parametrize("name", ["planes", "large planes", "one sample"])
def test_channels_last(name: str, device: str) -> None:
    rays, shape = SHAPES[name]
    compare(shape, rays, torch.float32, device, channels_last=True)


def test_without_scale_and_shift(device: str) -> None:
    compare((4, 6, 3, 3), 3, torch.float32, device, affine=False)


def test_a_mean_far_from_zero_costs_no_digits(device: str) -> None:
    """float32 has seven of them: squares of 1000 would leave one for a variance of 4."""
    rays, shape = SHAPES["planes"]
    x = torch.randn(rays * shape[0], *shape[1:]) * 2 + 1000
    y = ray_batch_norm(x.to(device), None, None, None, rays, 0.1, 1e-5).double().cpu()
    torch.testing.assert_close(y, definition(x.double(), None, None, None, rays, 0.1), rtol=0, atol=3e-4)


def test_several_splits_with_a_remainder(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of one ray are shared by programs that have not all as many tiles, and are more than are loaded together."""
    monkeypatch.setattr(norm, "_AT_ONCE", 2)
    x = torch.randn(2 * 7, 3, 32, 33, device=device)
    with configs.assume(replace(configs.target_of(x.device), processors=2)):
        grid = norm._Grid.of(x, 2)
        tiles = grid.layout.samples * -(-grid.layout.positions // grid.BP)
        assert grid.splits > 2
        assert tiles % grid.tiles_each
        compare((7, 3, 32, 33), 2, torch.float32, device)


def test_two_launches_each_way_whatever_the_number_of_rays(device: str) -> None:
    x, w = torch.randn(30, 8, device=device), torch.rand(8, device=device)
    for rays in (2, 15):
        with configs.assume(configs.target_of(x.device)), launch.recording() as launches:
            _, mean, scale = norm.forward(x, w, w, w.clone(), w.clone(), None, (rays, 0.1, 1e-5))
            norm.backward(x, x, w, mean, scale, rays, (True, True))
        assert [entry.name for entry in launches] == ["norm_sums", "norm_forward", "norm_sums", "norm_backward"]


@pytest.mark.parametrize("momentum", [0.1, None, 0.0])
@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.BatchNorm2d], ids=["1d", "2d"])
def test_the_layer_trains_as_the_loop(make: type[nn.Module], momentum: float | None, device: str) -> None:
    """Outputs, gradients, running statistics and their count, over two steps."""
    first: nn.Module = nn.Linear(5, 7) if make is nn.BatchNorm1d else nn.Conv2d(5, 7, 3, padding=1)
    model = nn.Sequential(first, make(7, momentum=momentum)).to(device)  # type: ignore[call-arg]
    model = randomise_adapters(palora.adapt(model, 2, 1))
    loop = copy.deepcopy(model)
    rays = torch.rand(3, 2, device=device)
    for _ in range(2):
        x = torch.randn((6, 5) if make is nn.BatchNorm1d else (6, 5, 4, 4), device=device)
        with palora.at(model, rays):
            y = palora.split(model(x), 3)
        y.square().mean().backward()
        for ray, found in zip(rays, y, strict=True):
            with palora.at(loop, ray):
                want = loop(x)
            (want.square().mean() / 3).backward()
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    mine, theirs = dict(model.named_parameters()), dict(loop.named_parameters())
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, dict(loop.named_buffers())[name], rtol=1e-4, atol=1e-5)


def test_one_value_a_channel_raises_as_torch_does(device: str) -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ray_batch_norm(torch.randn(3, 4, device=device), None, None, None, 3, 0.1, 1e-5)


def test_can_be_differentiated_twice(device: str) -> None:
    x, w, b = (torch.randn(s, device=device, requires_grad=True) for s in ((6, 3), (3,), (3,)))

    def second(f) -> list[Tensor]:  # type: ignore[no-untyped-def]
        (g,) = torch.autograd.grad(f().pow(3).sum(), x, create_graph=True)
        return list(torch.autograd.grad(g.square().sum(), (x, w, b)))

    mine = second(lambda: ray_batch_norm(x, w, b, None, 2, 0.1, 1e-5))
    theirs = second(lambda: torch.cat([F.batch_norm(p, None, None, w, b, True, 0.1, 1e-5) for p in x.chunk(2)]))
    for a, c in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-3)
