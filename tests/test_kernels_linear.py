"""`linear` and `linear_delta`: every plan against the loop over merged weights in float64."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import assert_equals_definition, convert, linear_case, linear_delta_case

import palora_kernels as pk

SHAPES = [  # M, n, K, O, T, r
    (5, 4, 7, 6, 2, 1),
    (1, 3, 5, 2, 3, 2),
    (3, 1, 8, 9, 7, 3),
    (11, 2, 1, 1, 2, 5),
    (4, 0, 6, 3, 2, 2),
    (2, 5, 33, 17, 4, 20),
]
LINEAR = ["factored", "merged"]
DELTA = ["merged", "basis"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("algorithm", LINEAR)
@pytest.mark.parametrize("bias", [0, 1, 2])
def test_linear_equals_the_definition(shape: tuple[int, ...], shared: bool, algorithm: str, bias: int) -> None:
    case = linear_case(*shape, shared=shared, bias=bias)
    assert_equals_definition("linear", case, torch.float64, algorithm, shared=shared)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("algorithm", DELTA)
@pytest.mark.parametrize("bias", [0, 1, 2])
@pytest.mark.parametrize("weight", [True, False])
def test_linear_delta_equals_the_definition(
    shape: tuple[int, ...], shared: bool, algorithm: str, bias: int, weight: bool
) -> None:
    case = linear_delta_case(*shape[:5], shared=shared, bias=bias, weight=weight)
    assert_equals_definition("linear_delta", case, torch.float64, algorithm, shared=shared)


@pytest.mark.parametrize("algorithm", LINEAR)
@pytest.mark.parametrize("shared", [False, True])
def test_without_a_common_part(algorithm: str, shared: bool) -> None:
    case = linear_case(3, 4, 5, 6, 2, 2, shared=shared, weight=False)
    assert_equals_definition("linear", case, torch.float64, algorithm, shared=shared)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("algorithm", LINEAR)
def test_lower_precision(dtype: torch.dtype, shared: bool, algorithm: str) -> None:
    case = linear_case(5, 8, 24, 16, 2, 3, shared=shared)
    assert_equals_definition("linear", case, dtype, algorithm, shared=shared)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("algorithm", DELTA)
def test_delta_lower_precision(dtype: torch.dtype, algorithm: str) -> None:
    case = linear_delta_case(5, 8, 24, 16, 2, shared=False)
    assert_equals_definition("linear_delta", case, dtype, algorithm)


@pytest.mark.parametrize("op", ["linear", "linear_delta"])
@pytest.mark.parametrize("shared", [False, True])
def test_gradcheck(op: str, shared: bool) -> None:
    make = linear_case if op == "linear" else linear_delta_case
    shape = (3, 2, 4, 3, 2, 2) if op == "linear" else (3, 2, 4, 3, 2)
    for algorithm in pk.plans.ALGORITHMS[op]:
        case = convert(make(*shape, shared=shared, bias=2), torch.float64)
        with pk.force_plan(**{op: algorithm}):
            assert torch.autograd.gradcheck(
                lambda *a: getattr(pk, op)(*a, shared=shared, backend="eager"), tuple(case.values())
            )


def test_a_preference_a_row() -> None:
    """M = P, n = 1: every row has its own merged weight."""
    case = linear_case(9, 1, 5, 4, 3, 2, shared=False)
    y = pk.linear(**case)
    for i in range(9):
        weight = case["weight"] + sum(case["lam"][i, t] * case["A"][t] @ case["B"][t] for t in range(3))
        torch.testing.assert_close(y[i], weight @ case["x"][i] + case["bias"])


def test_token_axes_are_rows_of_their_sample() -> None:
    case = linear_case(3, 4, 5, 6, 2, 2, shared=False)
    x = torch.randn(12, 7, 2, 5)
    y = pk.linear(**{**case, "x": x})
    assert y.shape == (12, 7, 2, 6)
    expected = pk.linear(**{**case, "x": x.reshape(12 * 14, 5)}, backend="reference")
    torch.testing.assert_close(y.reshape(-1, 6), expected)


@pytest.mark.parametrize("algorithm", LINEAR)
def test_strides_of_inputs_and_of_the_gradient(algorithm: str) -> None:
    """Transposed and expanded arguments; `y.sum().backward()` hands the op a gradient of stride 0."""
    case = linear_case(3, 4, 5, 6, 2, 2, shared=False)
    strided = {
        "x": torch.randn(5, 12).t(),
        "weight": torch.randn(5, 6).t(),
        "bias": torch.randn(1).expand(6),
        "A": torch.randn(2, 2, 6).transpose(1, 2),
        "B": torch.randn(1, 2, 5).expand(2, 2, 5),
        "lam": torch.rand(2, 3).t(),
    }
    assert list(strided) == list(case)
    with pk.force_plan(linear=algorithm):
        leaves = {k: v.detach().requires_grad_() for k, v in strided.items()}
        found = torch.autograd.grad(pk.linear(**leaves).sum(), list(leaves.values()))
    plain = {k: v.contiguous().detach().requires_grad_() for k, v in strided.items()}
    expected = torch.autograd.grad(pk.linear(**plain, backend="reference").sum(), list(plain.values()))
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_rank_one_gradients_have_the_right_layout() -> None:
    """At r = 1 a permuted factor claims to be contiguous with strides that are not."""
    assert_equals_definition("linear", linear_case(2, 3, 4, 5, 3, 1, shared=False), torch.float64, "merged")


def test_only_the_gradients_asked_for() -> None:
    case = linear_case(3, 4, 5, 6, 2, 2, shared=False)
    case["A"].requires_grad_()
    y = pk.linear(**case)
    y.sum().backward()
    assert case["A"].grad is not None
    assert case["x"].grad is None
    assert case["weight"].grad is None


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "A", "B", "lam"])
def test_one_gradient_alone(wanted: str) -> None:
    case = linear_case(3, 4, 5, 6, 2, 2, shared=False)
    case[wanted].requires_grad_()
    backends = ("eager", "reference")
    found, want = (torch.autograd.grad(pk.linear(**case, backend=b).sum(), case[wanted]) for b in backends)
    torch.testing.assert_close(found, want)


def test_zero_preference_still_has_a_gradient_for_lam() -> None:
    """dlam needs S, not S o Lam: at lam = 0 the latter has lost it."""
    case = linear_case(2, 3, 4, 5, 2, 2, shared=False)
    case["lam"] = torch.zeros(2, 2)
    assert_equals_definition("linear", case, torch.float64, "factored")


def test_double_backward_is_refused_by_name_and_served_by_the_reference() -> None:
    case = convert(linear_case(2, 2, 3, 3, 2, 1, shared=False), torch.float64)
    y = pk.linear(**case).pow(2).sum()
    (dx,) = torch.autograd.grad(y, case["x"], create_graph=True)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        dx.sum().backward()
    assert torch.autograd.gradgradcheck(lambda *a: pk.linear(*a, backend="reference"), tuple(case.values()))


def test_torch_func_transforms_work() -> None:
    case = linear_case(2, 3, 4, 5, 2, 2, shared=False)
    W = case.pop("weight")
    stack = torch.stack([W, 2 * W])
    found = torch.func.vmap(lambda w: pk.linear(weight=w, **case))(stack)
    torch.testing.assert_close(found[1], pk.linear(weight=2 * W, **case))
    gradient = torch.func.grad(lambda w: pk.linear(weight=w, **case).pow(2).sum())(W)
    leaf = W.clone().requires_grad_()
    pk.linear(weight=leaf, **case).pow(2).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.grad(lambda w: pk.linear(weight=w, **case, backend="eager").sum())(W)


def test_autocast_casts_like_nn_linear() -> None:
    case = {k: v.requires_grad_() for k, v in linear_case(3, 4, 8, 6, 2, 2, shared=False).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = pk.linear(**case)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(v.grad.dtype == torch.float32 for v in case.values())
    exact = pk.linear(**case, backend="reference")
    torch.testing.assert_close(y.float(), exact, atol=0.15, rtol=0.05)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.randn(11, 5)}, r"`x` should have M\*n rows.*3 rays.*11 rows"),
        ({"x": torch.randn(12, 4)}, r"`x` should have 5 features"),
        ({"x": torch.randn(5)}, r"`x` should be a tensor of shape"),
        ({"weight": torch.randn(6, 4)}, r"`weight` should have shape \(6, 5\)"),
        ({"bias": torch.randn(5)}, r"`bias` should have shape \(6,\)"),
        ({"bias": torch.randn(2, 6)}, r"`bias` should have shape \(3, 6\)"),
        ({"A": torch.randn(3, 6, 2)}, r"`A` should have one slice a task, 2"),
        ({"B": torch.randn(2, 3, 5)}, r"share the rank r"),
        ({"lam": torch.rand(2)}, r"`lam` should have shape \(M, T\)"),
        ({"lam": torch.rand(0, 2)}, r"at least one ray"),
    ],
)
def test_bad_shapes_are_named(change: dict[str, torch.Tensor], message: str) -> None:
    case = {**linear_case(3, 4, 5, 6, 2, 2, shared=False), **change}
    with pytest.raises(ValueError, match=message):
        pk.linear(**case)


def test_bad_dtypes_are_named() -> None:
    case = linear_case(3, 4, 5, 6, 2, 2, shared=False)
    with pytest.raises(TypeError, match=r"`A` should have the dtype of `x`"):
        pk.linear(**{**case, "A": case["A"].double()})
    with pytest.raises(TypeError, match=r"`x` should be of a floating point dtype"):
        pk.linear(**{**case, "x": torch.ones(12, 5, dtype=torch.long)})


def test_backends_are_chosen_and_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    case = linear_case(3, 4, 5, 6, 2, 2, shared=False)
    assert pk.backends()["eager"] == "available"
    with pytest.raises(ValueError, match="should be one of"):
        pk.linear(**case, backend="cuda")
    missing = [name for name, status in pk.backends().items() if status != "available"]
    for name in missing:
        with pytest.raises(RuntimeError, match=name):
            pk.linear(**case, backend=name)
        monkeypatch.setenv("PALORA_BACKEND", name)
        with pytest.raises(RuntimeError, match="PALORA_BACKEND"):
            pk.linear(**case)
    monkeypatch.setenv("PALORA_BACKEND", "reference")
    leaf = convert(case, torch.float64)
    (dx,) = torch.autograd.grad(pk.linear(**leaf).pow(2).sum(), leaf["x"], create_graph=True)
    assert dx.requires_grad  # only the reference is differentiable twice, so it was used


def test_the_kernels_never_import_the_package_above() -> None:
    import pathlib

    for path in pathlib.Path(pk.__file__).parent.rglob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                assert words[1].split(".")[0] != "palora", f"{path}: {line}"
