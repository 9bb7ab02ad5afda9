"""What a warm call takes from memory: never the launches of another call, and the same results as ever.

On a machine without a GPU the kernels run in the interpreter; whether a compiled kernel fits the addresses it is given
is asked in a process that compiles for a GPU that does nothing (host_launches.py).
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kernel_cases import conv_case, linear_case, linear_delta_case
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import palora
import palora_kernels as pk
from palora.layers import context
from palora_kernels import direct, versions
from palora_kernels.triton.launching import configs, launch, replay, tuning

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).parent.parent
LINEAR = (2, 3, 20, 18, 2, 2)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plans that were run to be written down, by the name of the function."""
    seen: list[str] = []
    capture = replay.capture

    def counted(plan: Callable[..., Any], *rest: Any) -> Any:
        seen.append(plan.__name__)
        return capture(plan, *rest)

    monkeypatch.setattr(replay, "capture", counted)
    return seen


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every launch that was built, not taken from memory."""
    seen: list[dict[str, Any]] = []
    perform = launch._perform

    def noted(kernel: Any, programs: int, num_warps: int, num_stages: int, arguments: dict[str, Any]) -> Any:
        seen.append({"kernel": kernel.fn.__name__, "num_warps": num_warps, **arguments})
        return perform(kernel, programs, num_warps, num_stages, arguments)

    monkeypatch.setattr(launch, "_perform", noted)
    return seen


def leaves(case: dict[str, Any], dtype: torch.dtype, device: str) -> dict[str, Any]:
    return {
        name: None if t is None else t.to(torch.float32 if name == "lam" else dtype).to(device).requires_grad_()
        for name, t in case.items()
    }


def results(op: str, case: dict[str, Any], grad: Tensor | None = None, **options: Any) -> dict[str, Tensor]:
    y = getattr(pk, op)(**case, **options, backend="triton")
    inputs = {name: t for name, t in case.items() if t is not None and t.requires_grad}
    grad = torch.ones_like(y) if grad is None else grad
    return {"y": y, **dict(zip(inputs, torch.autograd.grad(y, list(inputs.values()), grad), strict=True))}


class Watching(TorchDispatchMode):
    """Does nothing but be there, which sends a call through the operators of torch.library."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_compiled_kernels_fit_what_they_are_given() -> None:
    """Addresses that 16 divides and others, absent tensors, ones, multiples of 16: warm calls launch what cold ones do,
    and calls that Triton compiles apart do not share a kernel."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "python")])
    found = subprocess.run(
        [sys.executable, "-m", "tests.host_launches"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert [name for name, same in report["same"].items() if not same] == []
    kernels = report["kernels"]
    alike = {name for name in kernels if kernels[name] == kernels["plain"]}
    assert alike == {"plain", "plain, other tensors", "x moved by 16 bytes", "the same tensor twice"}
    assert kernels["persistent"] == kernels["persistent, other tensors"] != kernels["persistent, x off 16 bytes"]


CASES = {
    "linear factored": ("linear", "factored", lambda: linear_case(*LINEAR, shared=False), {}),
    "linear shared": ("linear", "factored", lambda: linear_case(*LINEAR, shared=True, bias=2), {"shared": True}),
    "linear split": ("linear", "split", lambda: linear_case(*LINEAR, shared=False, bias=0), {}),
    "linear splitk": ("linear", "splitk", lambda: linear_case(*LINEAR, shared=False, bias=2), {}),
    "linear persistent": (
        "linear",
        "persistent",
        lambda: linear_case(2, 3, 24, 16, 2, 2, shared=False),
        {},
    ),
    "linear merged": ("linear", "merged", lambda: linear_case(*LINEAR, shared=False, weight=False), {}),
    "delta basis": ("linear_delta", "basis", lambda: linear_delta_case(*LINEAR[:-1], shared=False), {}),
    "delta merged": ("linear_delta", "merged", lambda: linear_delta_case(*LINEAR[:-1], shared=True), {"shared": True}),
    "conv merged": ("conv2d", "merged", lambda: conv_case(2, 2, 3, 4, 2, 1), {"padding": 1}),
    "linear library": ("linear", "library", lambda: linear_case(*LINEAR, shared=False), {}),
    "conv library": ("conv2d", "library", lambda: conv_case(2, 2, 3, 4, 2, 1), {"padding": 1}),
    "conv factored": ("conv2d", "factored", lambda: conv_case(2, 2, 3, 4, 2, 1), {"stride": 2}),
    "conv basis": ("conv2d", "basis", lambda: conv_case(2, 2, 4, 4, 2, 1, groups=2), {"groups": 2}),
    "conv delta": ("conv2d_delta", "merged", lambda: conv_case(2, 2, 3, 4, 2, 1, form="dense"), {"padding": [1, 1]}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_results_from_memory_are_those_of_the_operators(
    name: str, dtype: torch.dtype, device: str, captures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    op, algorithm, make, options = CASES[name]
    with pk.force_plan(**{op: algorithm}):
        results(op, leaves(make(), dtype, device), **options)
        assert len(captures) == 2, "a forward and a backward"
        monkeypatch.setattr(configs, "settle", None)
        monkeypatch.setattr(configs, "candidates", None)
        case = leaves(make(), dtype, device)
        y = getattr(pk, op)(**case, **options, backend="triton")
        grad = torch.randn_like(y)
        warm = results(op, case, grad, **options)
        assert len(captures) == 2, "the second call is from memory"
        monkeypatch.undo()
        direct.forget()
        replay.forget()
        with Watching():
            expected = results(op, case, grad, **options)
    for part, want in expected.items():
        assert torch.equal(warm[part], want), part
        assert warm[part].stride() == want.stride(), part
        assert warm[part].dtype == want.dtype, part


def test_operators_take_their_launches_from_memory_too(device: str, captures: list[str]) -> None:
    """What a compiled model calls."""
    for _ in range(2):
        with Watching():
            results("linear", leaves(linear_case(*LINEAR, shared=False), torch.float32, device))
    assert captures == ["forward", "backward"]


def call(device: str, dtype: torch.dtype = torch.float32, **changed: Any) -> Tensor:
    case = {
        k: None if v is None else v.detach()
        for k, v in leaves(linear_case(*LINEAR, shared=False), dtype, device).items()
    }
    y: Tensor = pk.linear(**{**case, **changed}, backend="triton")
    return y


def test_the_precision_of_products_is_part_of_the_key(device: str, cold: list[dict[str, Any]]) -> None:
    call(device)
    call(device)
    matmul: Any = torch.backends.cuda.matmul
    matmul.allow_tf32 = True
    try:
        call(device)
        call(device, torch.bfloat16)
    finally:
        matmul.allow_tf32 = False
    call(device)
    call(device, torch.bfloat16)
    assert [entry["PRECISION"] for entry in cold] == ["ieee", "tf32", "ieee"], "16-bit products do not depend on it"
    assert [entry["x_ptr"].dtype for entry in cold] == [torch.float32, torch.float32, torch.bfloat16]


def test_settings_are_read_as_pytorch_reads_them() -> None:
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolutions.allow_tf32
    try:
        for products, maps in ((False, True), (True, False), (True, True), (False, False)):
            matmul.allow_tf32, convolutions.allow_tf32 = products, maps
            assert versions.matmul_in_tf32() == products
            assert versions.convolutions_in_tf32() == maps
        if versions.TORCH >= (2, 9):
            for owner, asked in ((matmul, versions.matmul_in_tf32), (convolutions.conv, versions.convolutions_in_tf32)):
                for name in ("tf32", "ieee"):
                    owner.fp32_precision = name  # type: ignore[attr-defined]
                    assert asked() == (name == "tf32")
    finally:
        matmul.allow_tf32, convolutions.allow_tf32 = before


def test_the_precision_of_convolutions_is_part_of_the_key(
    device: str, cold: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {name: t.to(device) for name, t in conv_case(2, 1, 3, 4, 2, 1).items()}
    with pk.force_plan(conv2d="merged"):
        for allowed in (False, True, False, True):
            monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
            pk.conv2d(**case, backend="triton")
    assert [entry["PRECISION"] for entry in cold if "PRECISION" in entry] == ["ieee", "tf32"]


def test_what_was_tuned_is_taken_at_once(
    device: str, cold: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALORA_TUNING", str(tmp_path / "tuning.json"))
    tuning.forget()
    name, place = tuning.tile_key("linear_product", "ieee", 6, 18, 20), torch.device(device)
    try:
        with tuning.trying({}) as trial:
            call(device)
            call(device)
        assert len(cold) == 2, "on trial every choice is asked for"
        first, other = cold[0]["BM"], next(t for t in trial.asked[name] if t.rows != cold[0]["BM"])
        call(device)
        tuning.write(tmp_path / "tuning.json", tuning.Tuning({name: other}, {}), {})
        assert tuning.of(place).tiles[name] == other
        call(device)
        call(device)
        with tuning.trying({name: other}):
            call(device)
        assert [entry["BM"] for entry in cold] == [first, first, first, other.rows, other.rows]
    finally:
        monkeypatch.undo()
        tuning.forget()


def test_assumed_targets_and_recordings_leave_the_memory_alone(device: str, cold: list[dict[str, Any]]) -> None:
    call(device)
    tile = configs.Tile(64, 32, 32, 4, 2)
    with configs.assume(configs.TARGETS["sm_80"], tile):
        call(device)
    with launch.recording() as launches:
        call(device)
        call(device)
    call(device)
    assert [entry["BM"] for entry in cold] == [cold[0]["BM"], 64]
    assert [entry.name for entry in launches] == ["linear_product"] * 2


@pytest.mark.parametrize("absent", ["weight", "bias"])
def test_an_absent_tensor_is_another_call(absent: str, device: str, captures: list[str]) -> None:
    call(device)
    call(device, **{absent: None})
    call(device)
    call(device, **{absent: None})
    assert captures == ["forward"] * 2


def test_one_absent_tensor_is_not_another(device: str) -> None:
    """A weight without a bias and a bias a ray without a weight may have one layout."""
    x, given, A, B, lam = (torch.randn(s, device=device) for s in ((3, 3), (3, 3), (2, 3, 1), (2, 1, 3), (3, 2)))
    for options in ({"weight": given, "bias": None}, {"weight": None, "bias": given}):
        found, want = (pk.linear(x, A=A, B=B, lam=lam, **options, backend=b) for b in ("triton", "reference"))
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_16_bit_numbers_are_of_two_kinds(device: str, captures: list[str]) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert call(device, dtype).dtype == dtype
    assert captures == ["forward"] * 2


def test_a_forced_plan_is_another_call(device: str, captures: list[str]) -> None:
    for plan in ("factored", "split", "factored", "split"):
        with pk.force_plan(linear=plan):
            call(device)
    assert captures == ["forward"] * 2


def test_a_layout_tells_apart_what_triton_does_and_devices() -> None:
    def tensor(address: int, device: int = 0, **changed: Any) -> Any:
        made = {"dtype": torch.float32, "shape": torch.Size([4, 4]), "stride": lambda: (4, 1), **changed}
        return SimpleNamespace(data_ptr=lambda: address, get_device=lambda: device, **made)

    assert replay.layout(tensor(4096)) == replay.layout(tensor(8192 + 16))
    assert replay.layout(tensor(4096)) != replay.layout(tensor(4096 + 4))
    assert replay.layout(tensor(4096)) != replay.layout(tensor(4096, device=1))
    for change in ({"dtype": torch.int32}, {"shape": torch.Size([4, 3])}, {"stride": lambda: (1, 4)}):
        assert replay.layout(tensor(4096)) != replay.layout(tensor(4096, **change))
    assert replay.layout(None) != replay.layout(tensor(0))


def test_autocast_is_part_of_the_key(device: str, captures: list[str]) -> None:
    case = leaves(linear_case(*LINEAR, shared=False), torch.float32, device)
    for _ in range(2):
        assert call(device).dtype == torch.float32
        with torch.autocast(device, torch.bfloat16):
            assert pk.linear(**case, backend="triton").dtype == torch.bfloat16
    assert captures == ["forward"] * 2


def test_more_than_two_dimensions(device: str) -> None:
    case = leaves(linear_case(*LINEAR, shared=False), torch.float32, device)
    flat = case["x"].detach().repeat_interleave(5, 0)
    case["x"] = flat.view(6, 5, -1)
    for _ in range(2):
        y = pk.linear(**case, backend="triton")
        assert y.shape == (6, 5, 18)
        assert torch.equal(y.flatten(0, 1), pk.linear(**{**case, "x": flat}, backend="triton"))


def test_bad_arguments_are_refused_after_good_ones(device: str) -> None:
    case = linear_case(*LINEAR, shared=False)
    call(device)
    with pytest.raises(TypeError, match="`lam` should be of a floating point dtype"):
        call(device, lam=torch.ones(2, 2, dtype=torch.int64, device=device))
    with pytest.raises(ValueError, match="`x` should have 20 features"):
        call(device, x=case["x"][:, :-1].to(device))


def test_an_output_can_be_changed_in_place(device: str) -> None:
    case = leaves(conv_case(2, 2, 3, 4, 2, 1), torch.float32, device)
    case["x"] = case["x"].detach().contiguous(memory_format=torch.channels_last)
    with pk.force_plan(conv2d="merged"):
        for _ in range(2):
            y = pk.conv2d(**case, padding=1, backend="triton")
            positive = y.detach() > 0
            torch.relu_(y).sum().backward()
            assert torch.equal(y.detach() > 0, positive)


def test_a_second_derivative_is_refused(device: str) -> None:
    case = leaves(linear_case(*LINEAR, shared=False), torch.float32, device)
    for _ in range(2):
        (dx,) = torch.autograd.grad(pk.linear(**case, backend="triton").sum(), [case["x"]], create_graph=True)
        with pytest.raises(RuntimeError, match="does not differentiate its backward a second time"):
            dx.sum().backward()


def test_a_plan_that_reads_a_value_is_refused(device: str) -> None:
    x = torch.ones(2, 2, device=device)
    with pytest.raises(RuntimeError, match="read a value on the host"):
        replay.capture(lambda t: t * t.sum().item(), [x], ())


def test_a_tensor_from_elsewhere_is_refused(device: str) -> None:
    x, other = torch.ones(2, 2, device=device), torch.ones(2, 2, device=device)
    with pytest.raises(RuntimeError, match="not given and did not make"):
        replay.capture(lambda t: t + other, [x], ())


def test_operations_of_torch_are_repeated(device: str) -> None:
    """Views, results in place and in ``out``, several results, lists and keywords; with other values, and two tensors
    that were one."""

    def plan(a: Tensor, b: Tensor) -> tuple[Tensor, list[Tensor] | None, None]:
        made = a.new_zeros(4, 6)
        made[1:3].add_(b.t()[:2, :1].expand(2, 6))
        low, high = made.aminmax(dim=0)
        torch.mul(made, 3.0, out=made)
        wide = torch.cat([made, low[None], high[None]]).to(torch.float64)
        return wide.view(2, 3, 6).transpose(1, 2), [a + 1, b.sum((0, 1), dtype=torch.float64)], None

    x = torch.randn(5, 5, device=device)
    program, _ = replay.capture(plan, [x, x], ())
    a, b = torch.randn(5, 5, device=device), torch.randn(5, 5, device=device)
    found, expected = program([a, b]), plan(a, b)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found[0].stride() == expected[0].stride()


def test_a_result_that_nothing_reads_is_not_computed_again(device: str) -> None:
    def plan(a: Tensor) -> Tensor:
        a.sum()
        written = a.new_zeros(4)
        written[:2].fill_(2.0)
        return written

    program, _ = replay.capture(plan, [torch.ones(4, device=device)], ())
    assert len(program.steps) == 3, "zeros, a view, the values"
    assert program([torch.ones(4, device=device)]).tolist() == [2, 2, 0, 0]


def test_memory_is_given_back_as_soon_as_it_was_read(device: str) -> None:
    def plan(a: Tensor) -> Tensor:
        for _ in range(3):
            a = a * 2
        return a

    program, _ = replay.capture(plan, [torch.ones(4, device=device)], ())
    assert [len(step.over) for step in program.steps] == [0, 1, 1]


def test_the_first_call_keeps_nothing_of_its_graph(device: str, captures: list[str]) -> None:
    """Neither activations nor autograd's nodes, which belong to a stream: without waiting for a garbage collection."""
    x = torch.randn(6, 3, 5, 5, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, A, B = (torch.randn(s, device=device, requires_grad=True) for s in ((4, 3, 3, 3), (2, 4, 1), (2, 1, 27)))
    gc.collect()
    before = {id(o) for o in gc.get_objects() if type(o) is torch.Tensor}
    gc.disable()
    try:
        pk.conv2d(x * 2, weight, None, A, B, torch.rand(3, 2, device=device), backend="triton").sum().backward()
        made = [o for o in gc.get_objects() if type(o) is torch.Tensor and id(o) not in before]
        alive = [o for o in made if o.grad_fn is not None]
    finally:
        gc.enable()
    assert captures
    assert not alive


def test_preferences_and_adapted_layers_never_wait_for_the_device() -> None:
    """A fake tensor has no values, so that one that is read raises, wherever it is read."""
    with FakeTensorMode():
        layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
        model = palora.adapt(layers, tasks=2, rank=1)
        x = torch.randn(3, 6)
        for rays, rows in ((torch.rand(2), 3), (torch.rand(7, 2), 21)):
            with palora.at(model, rays):
                assert model(x).shape == (rows, 4)
        with palora.at(model, torch.rand(3, 2), per_sample=True):
            assert model(x).shape == (3, 4)


def test_rays_from_the_host_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordinary memory is read before the copy returns; pinned memory later, when the caller may have changed it."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    rays = torch.tensor([0.25, 0.75])
    assert context.may_run_ahead(rays, cuda)
    assert not context.may_run_ahead(rays, cpu)
    assert not context.may_run_ahead(torch.empty(2, device="meta"), cuda)
    monkeypatch.setattr(Tensor, "is_pinned", lambda self: True)
    assert not context.may_run_ahead(rays, cuda)

    asked: list[bool] = []
    to = Tensor.to

    def noted(self: Tensor, *to_where: Any, **how: Any) -> Tensor:
        if isinstance(to_where[0], torch.device):
            asked.append(how.get("non_blocking", False))
        return to(self, *to_where, **how)

    model = palora.adapt(torch.nn.Linear(6, 5), tasks=2, rank=1)
    monkeypatch.setattr(Tensor, "to", noted)
    for ahead in (True, False):
        monkeypatch.setattr(context, "may_run_ahead", lambda tensor, device, ahead=ahead: ahead)
        palora.at(model, rays)
    assert asked == [True, False]
