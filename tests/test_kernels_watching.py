"""What tools see of the ops: operations counted, batched gradients, forward-mode derivatives, names in a profile."""

from __future__ import annotations

import itertools
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import palora
import palora_kernels as pk
from palora.layers import adapter_parameters
from palora_kernels import batch_norm
from palora_kernels.plans import ALGORITHMS as FUNCTIONS

BACKENDS = [
    name for name, status in pk.backends().items() if status == "available" and name in ("reference", "eager", "native")
]
T, R, M, N = 2, 3, 3, 4


def _random(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, requires_grad=True)


def _case(op: str, shared: bool = False) -> tuple[Any, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    rows = N if shared else M * N
    if op.startswith("linear"):
        x, weight, factors = _random(rows, 5), _random(4, 5), [_random(T, 4, R), _random(T, R, 5)]
        deltas = _random(T, 4, 5)
    else:
        x, weight, factors = _random(rows, 2, 6, 6), _random(4, 2, 3, 3), [_random(T, 4, R), _random(T, R, 18)]
        deltas = _random(T, 4, 2, 3, 3)
    middle = [deltas] if op.endswith("delta") else factors
    return getattr(pk, op), (x, weight, _random(4), *middle, _random(M, T))


CALLS = list(itertools.product(FUNCTIONS, [False, True], BACKENDS))


@pytest.mark.parametrize("op, shared, backend", CALLS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_batch_of_gradients_is_what_each_alone_gives(op: str, shared: bool, backend: str) -> None:
    """As TorchJD's engines and Jacobians ask for them: torch.vmap over a backward, and is_grads_batched."""
    function, tensors = _case(op, shared)
    y = function(*tensors, shared=shared, backend=backend)
    directions = torch.randn(5, *y.shape, dtype=y.dtype)
    single = [torch.autograd.grad(y, tensors, v, retain_graph=True) for v in directions]
    expected = [torch.stack(column) for column in zip(*single, strict=True)]

    def pull(v: Tensor) -> Any:
        return torch.autograd.grad(y, tensors, v, retain_graph=True)

    batched = torch.autograd.grad(y, tensors, directions, is_grads_batched=True, retain_graph=True)
    for found in (torch.vmap(pull)(directions), torch.vmap(pull, chunk_size=2)(directions), batched):
        torch.testing.assert_close(list(found), expected)


@pytest.mark.parametrize("dims", [(6, 4), (6, 4, 3, 3)])
def test_normalisation_on_a_gpu_takes_a_batch_of_gradients(dims: tuple[int, ...]) -> None:
    """Its backward, without the launches of one gradient."""
    torch.manual_seed(0)
    x, weight, bias = _random(*dims), _random(dims[1]), _random(dims[1])
    y = torch.cat([nn.functional.batch_norm(part, None, None, weight, bias, True) for part in x.chunk(2)])
    directions = torch.randn(5, *dims, dtype=x.dtype)
    single = [torch.autograd.grad(y, (x, weight, bias), v, retain_graph=True) for v in directions]
    context = types.SimpleNamespace(
        saved_tensors=(x, weight, bias, None, None), needs_input_grad=(True,) * 3, rays=2, eps=1e-5
    )
    with torch.no_grad():
        for vmap in (torch.vmap, torch._vmap_internals._vmap):
            found = vmap(lambda v: batch_norm._Fused.backward(context, v)[:3])(directions)
            torch.testing.assert_close(list(found), [torch.stack(column) for column in zip(*single, strict=True)])


@pytest.mark.skipif("native" not in BACKENDS, reason="pooled by the C++ extension alone")
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_pooling_takes_a_batch_of_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    y = pk.max_pool_relu(x)
    directions = torch.randn(3, *y.shape, dtype=y.dtype)
    expected = torch.stack([torch.autograd.grad(y, x, v, retain_graph=True)[0] for v in directions])
    found = torch.vmap(lambda v: torch.autograd.grad(y, x, v, retain_graph=True)[0])(directions)
    torch.testing.assert_close(found, expected)
    (found,) = torch.autograd.grad(y, x, directions, is_grads_batched=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("op", FUNCTIONS)
def test_a_jacobian_of_some_arguments(op: str) -> None:
    function, tensors = _case(op)
    fixed = [t.detach() for t in tensors]

    def of(lam: Tensor) -> Tensor:
        return function(*fixed[:-1], lam).sum(tuple(range(1, fixed[0].dim())))

    lam = fixed[-1]
    expected = torch.autograd.functional.jacobian(of, lam)
    torch.testing.assert_close(torch.autograd.functional.jacobian(of, lam, vectorize=True), expected)
    torch.testing.assert_close(torch.func.jacrev(of)(lam), expected)
    torch.testing.assert_close(torch.func.jacfwd(of)(lam), expected)


@pytest.mark.parametrize("op", FUNCTIONS)
def test_forward_mode_keeps_the_tangents(op: str) -> None:
    function, tensors = _case(op)
    values = [t.detach() for t in tensors]
    tangents = [torch.randn_like(t) for t in values]
    expected = torch.func.jvp(lambda *a: function(*a, backend="reference"), tuple(values), tuple(tangents))[1]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, v) for t, v in zip(values, tangents, strict=True)]
        found = forward_ad.unpack_dual(function(*duals)).tangent
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("op", FUNCTIONS)
def test_forward_mode_is_refused_by_a_named_backend(op: str) -> None:
    function, tensors = _case(op)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t.detach(), torch.ones_like(t)) for t in tensors]
        with pytest.raises(RuntimeError, match="has no rules for"):
            function(*duals, backend="eager")


def _flops(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("op", FUNCTIONS)
def test_every_op_and_its_backward_have_a_formula(op: str) -> None:
    layer = op.removesuffix("_delta")  # dense deltas are the same op without B
    for name in (layer, f"{layer}_backward"):
        assert getattr(torch.ops.palora, name) in flop_registry


def test_operations_by_hand() -> None:
    """2 a multiply-add: the base product, X B^T and S A^T forward, and twice each of them backward."""
    K, O = 5, 4
    x, W, A, B = _random(M * N, K), _random(O, K), _random(T, O, R), _random(T, R, K)
    lam = torch.rand(M, T, dtype=torch.float64)
    base, project, expand = 2 * M * N * K * O, 2 * M * N * K * T * R, 2 * M * N * O * T * R
    assert _flops(lambda: pk.linear(x, W, None, A, B, lam)) == base + project + expand
    both = _flops(lambda: pk.linear(x, W, None, A, B, lam).sum().backward())
    assert both == 3 * base + 3 * project + 3 * expand
    W.requires_grad_(False)
    assert _flops(lambda: pk.linear(x, W, None, A, B, lam).sum().backward()) == both - base


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("op", FUNCTIONS)
def test_rays_cost_what_as_many_layers_cost(op: str, shared: bool) -> None:
    """The operations of M layers without adapters, forward and backward, and little more than those."""
    function, tensors = _case(op, shared)
    x, weight = tensors[:2]
    plain = torch.nn.functional.linear if op.startswith("linear") else torch.nn.functional.conv2d
    one = x[:N].detach().requires_grad_()
    layer = _flops(lambda: plain(one, weight, tensors[2]).sum().backward())
    forward = _flops(lambda: plain(one, weight, tensors[2]))
    rays = M * layer
    assert _flops(lambda: function(*tensors, shared=shared)) >= M * forward
    assert rays <= _flops(lambda: function(*tensors, shared=shared).sum().backward()) <= 6 * rays


def test_a_counter_around_the_backward_alone_sees_it() -> None:
    function, tensors = _case("linear")
    y = function(*tensors)
    assert _flops(lambda: y.sum().backward()) > 0


def _model() -> nn.Module:
    torch.manual_seed(0)
    model = palora.adapt(nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)), 2, 2)
    for p in adapter_parameters(model):
        nn.init.normal_(p, std=0.3)
    return model


def _at(model: nn.Module, rays: Any, x: Tensor) -> Any:
    def call() -> None:
        with palora.at(model, rays):
            model(x).sum().backward()

    return call


@pytest.mark.parametrize("family", ["lora", "dora"])
def test_an_adapted_model_costs_what_its_merged_ones_cost(family: str) -> None:
    plain = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
    model = palora.adapt(plain, 2, 2, family=family)
    x = torch.randn(4, 2, 8, 8)
    merged = palora.merge(model, (0.3, 0.7))
    cost = _flops(lambda: merged(x).sum().backward())
    one, three = _flops(_at(model, (0.3, 0.7), x)), _flops(_at(model, torch.rand(3, 2), x))
    assert cost <= one <= 2 * cost
    assert 3 * cost <= three <= 6 * cost


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_profile_names_the_ops(channels_last: bool) -> None:
    model, x = _model(), torch.randn(4, 2, 8, 8)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        _at(model, torch.rand(3, 2), x)()
    names = [event.key for event in profile.key_averages()]
    assert any(name.startswith(("palora::linear", "palora_native::factored_linear")) for name in names)
    assert "palora::conv2d" in names
    assert "palora::conv2d_backward" in names


@pytest.mark.needs("torchjd")
@pytest.mark.parametrize("rays", [(0.3, 0.7), [(0.3, 0.7), (1.0, 0.0), (0.5, 0.5)]])
@pytest.mark.parametrize("chunk", [None, 1])
def test_torchjd_backward_is_that_of_separate_losses(rays: Any, chunk: int | None) -> None:
    """Its Jacobian, parallel (vmapped) and one row after another, aggregated to the mean: the gradient of the mean."""
    from torchjd.aggregation import Mean
    from torchjd.autojac import backward, jac_to_grad

    model, losses = _two_losses(rays)
    expected = torch.autograd.grad(losses().mean(), list(model.parameters()))
    backward(losses(), parallel_chunk_size=chunk)
    jac_to_grad(model.parameters(), Mean())
    for p, want in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, want)


@pytest.mark.needs("torchjd")
@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("batched", [0, None])
@pytest.mark.parametrize("kind", ["linear", "conv", "dora", "dora conv", "ensemble"])
@pytest.mark.parametrize("rays", [(0.3, 0.7), [(0.3, 0.7), (1.0, 0.0), (0.5, 0.5)]])
def test_torchjd_gramian_is_right_or_refused(
    rays: Any, kind: str, batched: int | None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Gramian engine runs layers again, sample by sample: the right Gramian, or one sentence."""
    from torchjd.autogram import Engine

    if backend not in BACKENDS:
        pytest.skip(pk.backends()[backend])
    monkeypatch.setenv("PALORA_BACKEND", backend)
    model, losses = _two_losses(rays, mean=1, kind=kind)
    rows = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses()]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    engine = Engine(model, batch_dim=batched)
    said, gramian = "", None
    try:
        gramian = engine.compute_gramian(losses())
    except (RuntimeError, ValueError) as error:
        said = str(error)
    if gramian is None:
        assert "rays" in said or "rows" in said or "no rules for torch.func" in said
        assert batched == 0
    else:
        torch.testing.assert_close(gramian, J @ J.T)


def _two_losses(rays: Any, mean: int = 0, kind: str = "linear") -> tuple[nn.Module, Any]:
    layers = [nn.Conv2d(5, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2)] if "conv" in kind else None
    model = nn.Sequential(*(layers or [nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)])).double()
    if kind == "ensemble":
        palora.layers.ensemble(model, 2)
    else:
        palora.adapt(model, 2, 2, family="dora" if "dora" in kind else "lora")
    for p in adapter_parameters(model):
        nn.init.normal_(p, std=0.3)
    x = torch.randn(4, 5, *([1, 1] if "conv" in kind else []), dtype=torch.float64)

    def losses() -> Tensor:
        with palora.at(model, rays):
            return model(x).square().mean(mean)

    return model, losses
