"""`at` in asyncio tasks, threads and generators; rays that are refused; what finished passes leave behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from layer_cases import randomise_adapters
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import palora
from palora.layers import state as states

X = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5)
RAYS = [torch.tensor([i / 5, 1 - i / 5], dtype=torch.float64) for i in range(6)]


def _model() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return randomise_adapters(palora.adapt(net, 2, 2))


def _expected(model: nn.Module) -> list[Tensor]:
    return [palora.merge(model, ray)(X) for ray in RAYS]


async def _answers(call: Any, model: nn.Module, ray: Tensor) -> list[Tensor]:
    found = []
    with palora.at(model, ray):
        for _ in range(3):
            await asyncio.sleep(0)
            found.append(call(X))
    with pytest.raises(RuntimeError, match="without rays"):
        model(X)
    return found


async def _together(call: Any, model: nn.Module) -> list[list[Tensor]]:
    return await asyncio.gather(*(_answers(call, model, ray) for ray in RAYS))


@pytest.mark.parametrize("compiled", [False, True])
def test_tasks_that_take_turns_have_rays_of_their_own(compiled: bool) -> None:
    torch._dynamo.reset()
    model = _model()
    call = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    for found, expected in zip(asyncio.run(_together(call, model)), _expected(model), strict=True):
        for one in found:
            torch.testing.assert_close(one, expected)


def test_a_task_has_the_rays_of_its_starter_until_it_opens_others() -> None:
    model = _model()
    expected = _expected(model)

    async def work() -> None:
        torch.testing.assert_close(model(X), expected[1])
        with palora.at(model, RAYS[2]):
            await asyncio.sleep(0)
            torch.testing.assert_close(model(X), expected[2])

    async def main() -> None:
        with palora.at(model, RAYS[1]):
            tasks = [asyncio.create_task(work()) for _ in range(2)]
            await asyncio.sleep(0)
            torch.testing.assert_close(model(X), expected[1])
            await asyncio.gather(*tasks)

    asyncio.run(main())


def test_threads_with_a_copied_context_run_passes_of_their_own() -> None:
    model, rays = _model(), torch.stack(RAYS)
    with palora.at(model, rays):
        expected = model(X)
    wrong: list[int] = []

    def work() -> None:
        for i in range(30):
            if not torch.equal(model(X), expected):
                wrong.append(i)

    async def main() -> None:
        with palora.at(model, rays):
            await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))

    asyncio.run(main())
    assert not wrong


def test_a_new_thread_has_no_rays() -> None:
    model, errors = _model(), []

    def work() -> None:
        try:
            model(X)
        except RuntimeError as error:
            errors.append(str(error))

    with palora.at(model, RAYS[0]):
        thread = threading.Thread(target=lambda: contextvars.Context().run(work))
        thread.start()
        thread.join()
    assert "without rays" in errors[0]


@pytest.mark.parametrize("compiled", [False, True])
def test_one_block_entered_twice_restores_what_was_there(compiled: bool) -> None:
    torch._dynamo.reset()
    model = _model()
    expected = _expected(model)

    def all_of(x: Tensor) -> tuple[Tensor, ...]:
        block = palora.at(model, RAYS[1])
        with palora.at(model, RAYS[3]), block:
            with palora.at(model, RAYS[2]), block:
                a = model(x)
            b = model(x)
            with block:
                pass
            return a, b, model(x)

    call = torch.compile(all_of, fullgraph=True, backend="aot_eager") if compiled else all_of
    for found in call(X):
        torch.testing.assert_close(found, expected[1])
    block = palora.at(model, RAYS[1])
    with block:
        with block:
            pass
        torch.testing.assert_close(model(X), expected[1])
    with pytest.raises(RuntimeError, match="without rays"):
        model(X)


def _generator(model: nn.Module, ray: Tensor) -> Iterator[Tensor]:
    with palora.at(model, ray):
        yield model(X)
        yield model(X)


def test_generators_that_run_by_turns_are_told_and_leave_nothing() -> None:
    model = _model()
    one, two = _generator(model, RAYS[1]), _generator(model, RAYS[2])
    next(one)
    next(two)
    next(one)
    with pytest.raises(RuntimeError, match="another order than opened"):
        list(one)
    list(two)
    with pytest.raises(RuntimeError, match="without rays"):
        model(X)


def test_generators_in_contexts_of_their_own() -> None:
    model = _model()
    pairs = [(contextvars.copy_context(), _generator(model, ray)) for ray in RAYS]
    for _ in range(2):
        for (context, generator), expected in zip(pairs, _expected(model), strict=True):
            torch.testing.assert_close(context.run(next, generator), expected)
    for context, generator in pairs:
        assert not context.run(list, generator)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rays_that_are_not_finite_are_refused(bad: float) -> None:
    model = _model()
    for rays in ((bad, 0.5), torch.tensor([[0.5, 0.5], [0.1, bad]])):
        with pytest.raises(ValueError, match="`rays` should be finite"):
            palora.at(model, rays)
        with pytest.raises(ValueError, match="`rays` should be finite"):
            palora.at(model, torch.as_tensor(rays).view(-1, 2), per_sample=True)
    with pytest.raises(ValueError, match="`rays` should be finite"):
        palora.merge(model, (bad, 0.5))


def test_complex_rays_are_refused() -> None:
    rays = torch.tensor([0.5 + 1j, 0.5])
    for given in (rays, rays.numpy()):
        with pytest.raises(ValueError, match="`rays` should be real numbers"):
            palora.at(_model(), given)


@pytest.mark.parametrize("compiled", [False, True])
def test_three_rays_for_six_rows_are_refused(compiled: bool) -> None:
    model = _model()
    call = torch.compile(model, backend="aot_eager") if compiled else model
    with palora.at(model, torch.stack(RAYS[:3]), per_sample=True):
        assert call(torch.ones(3, 7, 5, dtype=torch.float64)).shape == (3, 7, 3)
        with pytest.raises(Exception, match="one row a ray"):
            call(torch.ones(6, 5, dtype=torch.float64))


class _Watched(torch.autograd.Function):
    alive = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        class Token:
            def __del__(self) -> None:
                _Watched.alive -= 1

        _Watched.alive += 1
        ctx.token = Token()
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@pytest.mark.parametrize("one", [False, True])
def test_remembered_passes_hold_no_graph(one: bool) -> None:
    model = _model()
    leaf = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    for _ in range(20):
        rays = _Watched.apply(leaf)
        with palora.at(model, rays[0] if one else rays):
            model(X).sum().backward()
    del rays
    gc.collect()
    assert len(model[0].rays_state.passes) == 20
    assert _Watched.alive == 0


def test_remembered_passes_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "MOST_BYTES", 10 * 4 * 16)
    model = _model()
    large = torch.rand(50, 4, 2, dtype=torch.float64)
    for i in range(50):
        with palora.at(model, large[i].clone(), per_sample=True):
            model(X)
    passes = model[0].rays_state.passes
    assert len(passes) == 10
    assert sum(p.slot.rays.untyped_storage().nbytes() for p in passes) == model[0].rays_state.remembered == 640


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_of_rays_through_a_checkpoint(reentrant: bool) -> None:
    model = _model()
    leaf = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    x = X.clone().requires_grad_()

    def loss() -> Tensor:
        rays = leaf.softmax(1)
        with palora.at(model, rays):
            return checkpoint(model, x, use_reentrant=reentrant).square().sum()

    rays = leaf.softmax(1)
    with palora.at(model, rays):
        (expected,) = torch.autograd.grad(model(x).square().sum(), leaf)
    if reentrant:  # what computed the rays is not kept
        with pytest.raises(RuntimeError, match="use_reentrant=False"):
            loss().backward()
    else:
        torch.testing.assert_close(torch.autograd.grad(loss(), leaf)[0], expected)


@pytest.mark.slow
def test_memory_stays_flat_over_many_passes() -> None:
    model = _model()
    leaf = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    sizes = []
    for step in range(2400):
        with palora.at(model, _Watched.apply(leaf).softmax(1)):
            model(X).sum().backward()
        if step % 400 == 399 and step > 1100:
            gc.collect()
            sizes.append(sum(1 for o in gc.get_objects() if issubclass(type(o), (Tensor, states.Slot))))
    assert max(sizes) - min(sizes) < 20, sizes
    assert _Watched.alive == 0
