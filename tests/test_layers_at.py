"""`at`: modes, nesting, threads, errors, recomputation and compilation."""

from __future__ import annotations

import copy
import io
import threading
from typing import Any

import pytest
import torch
from layer_cases import randomise_adapters
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import palora


def _model(tasks: int = 2) -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return randomise_adapters(palora.adapt(net, tasks, 2))


X = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5)


def test_without_rays_it_raises() -> None:
    model = _model()
    with pytest.raises(RuntimeError, match=r"called without rays.*palora\.at"):
        model(X)
    with palora.at(model, (0.5, 0.5)):
        model(X)
    with pytest.raises(RuntimeError, match="called without rays"):
        model(X)


def test_one_ray_many_rays_and_a_ray_a_sample() -> None:
    model, rays = _model(), torch.rand(4, 2, dtype=torch.float64)
    with palora.at(model, rays):
        many = palora.split(model(X), 4)
    with palora.at(model, rays, per_sample=True):
        each = model(X)
    assert many.shape == (4, 4, 3)
    assert each.shape == (4, 3)
    for m in range(4):
        with palora.at(model, rays[m]):
            torch.testing.assert_close(many[m], model(X))
        torch.testing.assert_close(each[m], many[m, m])


def test_one_row_of_rays_is_not_a_single_ray_but_gives_the_same_rows() -> None:
    model = _model()
    with palora.at(model, [[0.3, 0.7]]):
        stacked = model(X)
    with palora.at(model, [0.3, 0.7]):
        torch.testing.assert_close(stacked, model(X))


def test_per_sample_with_token_axes_and_wrong_row_counts() -> None:
    model, rays = _model(), torch.rand(4, 2, dtype=torch.float64)
    tokens = torch.randn(4, 6, 5, dtype=torch.float64)
    with palora.at(model, rays, per_sample=True):
        y = model(tokens)
        with pytest.raises(ValueError, match=r"per_sample=True.*multiple of 4.*\(6, 5\)"):
            model(torch.randn(6, 5, dtype=torch.float64))
    with palora.at(model, rays[2]):
        torch.testing.assert_close(y[2], model(tokens[2:3])[0])


def test_blocks_nest_and_restore_also_after_an_error() -> None:
    model = _model()
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    with palora.at(model, a):
        before = model(X)
        with palora.at(model, b):
            inner = model(X)
        torch.testing.assert_close(model(X), before)
        with pytest.raises(ZeroDivisionError), palora.at(model, b):
            raise ZeroDivisionError
        torch.testing.assert_close(model(X), before)
    assert not torch.allclose(before, inner)


def test_an_exception_inside_the_model_leaves_the_block_usable() -> None:
    model, rays = _model(), torch.rand(3, 2)
    with palora.at(model, rays):
        with pytest.raises(ValueError, match="5 features"):
            model(torch.randn(4, 6, dtype=torch.float64))
        with pytest.raises(ValueError, match="5 features"):
            model(torch.randn(4, 7, dtype=torch.float64))
        assert model(X).shape == (12, 3)


def test_threads_have_rays_of_their_own() -> None:
    model = _model()
    expected, found, errors = {}, {}, []
    for i in range(4):
        with palora.at(model, (i / 3, 1 - i / 3)):
            expected[i] = model(X)
    barrier = threading.Barrier(4)

    def work(i: int) -> None:
        try:
            with palora.at(model, (i / 3, 1 - i / 3)):
                barrier.wait(timeout=20)
                for _ in range(20):
                    found[i] = model(X)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for i in range(4):
        torch.testing.assert_close(found[i], expected[i])


def test_gradients_flow_to_the_rays_and_off_the_simplex_is_allowed() -> None:
    model = _model()
    rays = torch.tensor([[1.0, -1.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)

    def loss(r: Tensor) -> Tensor:
        with palora.at(model, r):
            return model(X).pow(2).sum()

    assert torch.autograd.gradcheck(loss, (rays,))


@pytest.mark.parametrize(
    "rays, per_sample",
    [((0.2, 0.3, 0.5), False), (torch.rand(3, 3), False), (torch.rand(0, 2), False), (torch.rand(2), True)],
)
def test_rays_of_the_wrong_shape_are_named(rays: Any, per_sample: bool) -> None:
    with pytest.raises(ValueError, match="`rays` should have shape"):
        palora.at(_model(), rays, per_sample=per_sample)


def test_a_model_without_adapters_is_named() -> None:
    with pytest.raises(ValueError, match=r"palora\.adapt"):
        palora.at(nn.Linear(3, 3), (0.5, 0.5))


class Checkpointed(nn.Module):
    """Two checkpointed blocks; the first begins with the layer that shares its input over rays."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        self.reentrant = reentrant

    def forward(self, x: Tensor, use: bool = True) -> Tensor:
        if not use:
            return self.second(self.first(x))
        h = checkpoint(self.first, x, use_reentrant=self.reentrant)
        return checkpoint(self.second, h, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_recomputes_with_the_rays_of_its_own_forward(reentrant: bool) -> None:
    """Two passes at different rays, then both backwards after their blocks, inside a block of yet other rays."""
    model = palora.adapt(Checkpointed(reentrant).double(), 2, 2)
    randomise_adapters(model)
    plain = copy.deepcopy(model)
    rays = torch.rand(2, 3, 2, dtype=torch.float64)

    def gradients(net: nn.Module, use: bool) -> list[Tensor]:
        losses = []
        for r in rays:
            with palora.at(net, r):
                losses.append(net(X.clone().requires_grad_(), use).pow(2).sum())
        with palora.at(net, (9.0, -9.0)):
            for loss in losses:
                loss.backward()
        return [p.grad for p in net.parameters()]

    for got, want in zip(gradients(model, True), gradients(plain, False), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("expand_at", [None, "1"])
@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_the_whole_model(reentrant: bool, n: int, expand_at: str | None) -> None:
    """The backward runs behind the block, or in the block of the next step's rays; evaluations lie between."""
    trunk, head = (
        nn.Sequential(nn.Linear(5, 8), nn.Tanh()),
        nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)),
    )
    include = None if expand_at is None else "1"
    model = palora.adapt(nn.Sequential(trunk, head).double(), 2, 2, include=include, expand_at=expand_at)
    randomise_adapters(model)
    plain, x = copy.deepcopy(model), torch.randn(n, 5, dtype=torch.float64)
    rays = torch.rand(2, 3, 2, dtype=torch.float64)
    losses = []
    for r in rays:
        with palora.at(model, r):
            losses.append(checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant).pow(2).sum())
        with palora.at(plain, r):
            plain(x).pow(2).sum().backward()
        with palora.at(model, torch.rand(4, 2)), torch.no_grad():
            model.eval()(x)
            model.train()
    losses[0].backward()
    with palora.at(model, (9.0, -9.0)):
        losses[1].backward()
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("inference", [False, True])
def test_a_batch_changed_in_place_is_no_longer_shared(inference: bool) -> None:
    """The first layer of an expansion point computes with what the operations before it made of the batch."""
    head = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))
    net = nn.Sequential(nn.Linear(5, 6), head).double()
    model = randomise_adapters(palora.adapt(net, 2, 2, include="1", expand_at="1"))
    rays = torch.rand(3, 2, dtype=torch.float64)
    with torch.inference_mode(inference), palora.at(model, rays):
        found = model(X)
    for m, ray in enumerate(rays):
        torch.testing.assert_close(palora.split(found, 3)[m].clone(), palora.merge(model, ray)(X))


def _through_data(x: torch.Tensor) -> None:
    x.data.mul_(2)


def _with_numpy(x: torch.Tensor) -> None:
    x.detach().numpy()[:, 0] = 0


def _other_data(x: torch.Tensor) -> None:
    x.data = x.data + 1


@pytest.mark.parametrize("change", [_through_data, _with_numpy, _other_data])
def test_a_batch_changed_behind_autograds_back_is_no_longer_shared(change: Any) -> None:
    """Such changes raise no version; the trial sees them in the values."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x).sin()
            change(x)
            return y + self.second(x)

    model = randomise_adapters(palora.adapt(Net().double(), 2, 2))
    rays = torch.rand(3, 2, dtype=torch.float64)
    with torch.no_grad(), palora.at(model, rays):
        found = palora.split(model(X.clone()), 3)
    for y, ray in zip(found, rays, strict=True):
        torch.testing.assert_close(y, palora.merge(model, ray)(X.clone()))


def test_copies_and_pickles_have_a_state_of_their_own() -> None:
    model = _model()
    buffer = io.BytesIO()
    with palora.at(model, (0.5, 0.5)):
        expected = model(X)
        copied = copy.deepcopy(model)
        torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (copied, loaded):
        with pytest.raises(RuntimeError, match="without rays"):
            other(X)
        with palora.at(other, (0.5, 0.5)):
            torch.testing.assert_close(other(X), expected)


def test_rays_are_in_no_buffer() -> None:
    model = _model()
    with palora.at(model, torch.rand(3, 2)):
        model(X)
        assert not list(model.buffers())


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))


@pytest.mark.parametrize("inside", [False, True])
def test_compile_fullgraph_without_recompiling_for_new_rays(inside: bool) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = randomise_adapters(palora.adapt(Conv(), 2, 2))
    twin = copy.deepcopy(model)

    def call(r: Tensor, x: Tensor, net: nn.Module = model) -> Tensor:
        with palora.at(net, r):
            return net(x)

    compiled = torch.compile(call if inside else model, fullgraph=True, backend="aot_eager")
    stats = torch._dynamo.utils.counters["stats"]
    graphs = []
    for _ in range(3):
        rays, x = torch.rand(3, 2), torch.randn(4, 2, 6, 6)
        if inside:
            found = compiled(rays, x)
        else:
            with palora.at(model, rays):
                found = compiled(x)
        expected = call(rays, x, twin)
        torch.testing.assert_close(found, expected)
        (expected.sum() + found.sum()).backward()
        graphs.append(stats["unique_graphs"])
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-4, rtol=1e-4)
    for b, c in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(b, c)
    # torch.compile(model) traces the hooks of the outermost module as a graph of their own; inside a compiled function
    # there is a single one.
    assert graphs == ([1, 1, 1] if inside else [2, 2, 2])
    assert not torch._dynamo.utils.counters["graph_break"]


def test_split_through_containers() -> None:
    y = {"a": torch.arange(12).view(6, 2), "b": (torch.arange(6), [torch.arange(6)])}
    parts = palora.split(y, 3)
    assert parts["a"].shape == (3, 2, 2)
    assert parts["b"][0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert parts["b"][1][0].shape == (3, 2)
    with pytest.raises(ValueError, match="multiple of 4 rows"):
        palora.split(y, 4)
