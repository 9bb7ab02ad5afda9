"""The plan `splitk` of `linear`: rows and columns beside every tile, splits of any number, and which tiles it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kernel_cases
import pytest
import torch
from kernel_cases import linear_case
from torch import Tensor
from triton_cases import assert_triton_equals_definition, laid_out, poisoned_memory

import palora_kernels as pk
from palora_kernels.triton.launching import availability

pytest.importorskip("triton")
from palora_kernels.call import Call, Needs
from palora_kernels.factors import LowRank
from palora_kernels.triton.launching import configs, tuning
from palora_kernels.triton.launching.configs import TARGETS, Tile
from palora_kernels.triton.launching.launch import Launch, recording
from palora_kernels.triton.launching.operands import in_side
from palora_kernels.triton.linear import plans as linear
from palora_kernels.triton.linear import splitk as linear_splitk

if availability.status() != "available":  # a GPU that Triton does not support
    pytest.skip(availability.status(), allow_module_level=True)


def cut(splits: int, rows: int = 16) -> Tile:
    return Tile(rows, 16, 16, 4, 2, splits)


def check(device: str, case: dict[str, Any], dtype: torch.dtype, tile: Tile | None = None, **options: Any) -> None:
    if tile is None:
        assert_triton_equals_definition("linear", case, dtype, "splitk", device=device, **options)
        return
    with configs.assume(configs.target_of(torch.device(device)), tile, tf32=torch.backends.cuda.matmul.allow_tf32):
        assert_triton_equals_definition("linear", case, dtype, "splitk", device=device, **options)


@pytest.mark.parametrize(
    "M, n, T, r, bias, dtype",
    [
        (1, 1, 1, 1, 0, torch.float32),
        (15, 1, 2, 3, 2, torch.bfloat16),  # a preference a row
        (16, 1, 3, 8, 1, torch.float16),
        (17, 1, 2, 23, 2, torch.float32),
        (63, 1, 3, 32, 1, torch.bfloat16),  # R = 96
        (64, 1, 3, 8, 1, torch.bfloat16),
        (65, 1, 2, 8, 0, torch.float16),
        (1, 65, 3, 11, 2, torch.bfloat16),  # one ray of many rows
        (3, 5, 2, 9, 1, torch.float32),
    ],
)
def test_rows_and_columns_beside_every_tile(
    device: str, M: int, n: int, T: int, r: int, bias: int, dtype: torch.dtype
) -> None:
    check(device, linear_case(M, n, 53, 17, T, r, shared=False, bias=bias), dtype, cut(3, 64 if M * n > 60 else 16))


@pytest.mark.parametrize("splits", [1, 2, 5, 8])
@pytest.mark.parametrize("K", [5, 16, 40, 97])
def test_splits_with_a_remainder_and_with_nothing_to_do(device: str, splits: int, K: int) -> None:
    """Eight splits of 40 leave five empty: their part of the workspace counts as zero, not as what lay there."""
    check(device, linear_case(3, 2, K, 7, 2, 3, shared=False, bias=2), torch.float32, cut(splits))


@pytest.mark.parametrize("layout", ["padded", "transposed"])
@pytest.mark.parametrize("grad", ["expanded", "transposed"])
def test_operands_of_any_strides(device: str, layout: str, grad: str) -> None:
    case = linear_case(3, 7, 35, 18, 2, 5, shared=False, bias=2)
    check(device, case, torch.bfloat16, cut(2), layout=layout, grad=grad)


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [0, 1, 2])
def test_shared_rows_and_no_common_part(device: str, weight: bool, bias: int) -> None:
    for shared in (False, True):
        case = linear_case(3, 7, 35, 18, 2, 17, shared=shared, bias=bias, weight=weight)
        check(device, case, torch.float16, cut(2), shared=shared)


def test_tf32(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernel_cases.TOLERANCE, torch.float32, 5e-3)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        for tile in (cut(3), None):
            check(device, linear_case(7, 3, 53, 18, 2, 8, shared=False, bias=2), torch.float32, tile)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_the_tiles_that_are_chosen(device: str, dtype: torch.dtype) -> None:
    """Aligned rows, and rows of odd length, which take shallow tiles."""
    check(device, linear_case(33, 1, 160, 48, 3, 8, shared=False), dtype)
    check(device, linear_case(2, 4, 69, 19, 2, 3, shared=False), dtype)


@pytest.mark.parametrize("needed", ["x", "weight", "bias", "factors", "lam"])
def test_one_gradient_alone(device: str, needed: str) -> None:
    """Without dX only U0 is summed, and W is not read."""
    case = {k: v.to(device) for k, v in linear_case(4, 3, 37, 18, 2, 3, shared=False).items()}
    grad = torch.randn(12, 18, device=device)
    x, W, A, B, lam = (case[name] for name in ("x", "weight", "A", "B", "lam"))
    S = x @ B.reshape(6, 37).t()
    names = ("x", "weight", "bias", "factors", "lam")

    def gradients(plan: str, *wanted: str) -> dict[str, Any]:
        call = Call(laid_out(x, "padded"), laid_out(W, "padded"), None, LowRank(A, B, (18, 37)), lam, False, 1)
        with poisoned_memory(), configs.assume(TARGETS["sm_90"], cut(2)):
            found = linear.PLANS[plan][1](call, grad, S, Needs(**{name: name in wanted for name in names}))
        return dict(zip(names, found, strict=True))

    found, expected = gradients("splitk", needed), gradients("factored", *names)
    assert [name for name in names if found[name] is not None] == [needed]
    torch.testing.assert_close(found[needed], expected[needed], rtol=1e-4, atol=1e-4)


def test_other_values_of_the_same_layout(device: str) -> None:
    """The second call is from memory: what it computes follows from its own tensors."""
    for _ in range(2):
        check(device, linear_case(5, 3, 37, 19, 2, 3, shared=False, bias=2), torch.float32)


def test_same_bits_whatever_lay_in_the_workspace(device: str) -> None:
    case = {k: v.to(device) for k, v in linear_case(9, 1, 70, 18, 2, 2, shared=False).items()}
    found = []
    for poisoned in (False, True):
        torch.full((100_000,), float("nan"), device=device)
        with configs.assume(TARGETS["sm_90"], cut(4)), pk.force_plan(linear="splitk"):
            if poisoned:
                with poisoned_memory():
                    found.append(pk.linear(**case, backend="triton"))
            else:
                found.append(pk.linear(**case, backend="triton"))
    assert torch.equal(*found)


# -------------------------------------------------------------------------------------------------- what it is made of


def launches(M: int, n: int, K: int, O: int, target: str = "sm_90", r: int = 8) -> list[Launch]:
    """Of the forward, in bfloat16 on a device that is not there."""
    x = torch.empty(M * n, K, dtype=torch.bfloat16, device="meta")
    A, B, lam = x.new_empty(3, O, r), x.new_empty(3, r, K), torch.empty(M, 3, device="meta")
    with configs.assume(TARGETS[target]), recording() as found:
        linear.PLANS["splitk"][0](Call(x, x.new_empty(O, K), x.new_empty(O), LowRank(A, B, (O, K)), lam, False, 1))
    return found


def test_one_round_of_programs_reads_a_large_weight() -> None:
    for target in ("sm_80", "sm_90", "sm_100"):
        for M, n in ((64, 1), (11, 1), (1, 64)):
            product, total = launches(M, n, 4096, 4096, target)
            processors = TARGETS[target].processors
            assert 0.7 * processors <= product.programs <= processors
            assert product.arguments["BM"] == max(16, tuning.bucket(M * n))
            assert total.programs >= processors / 2
            assert total.arguments["SPLITS"] == product.arguments["splits"] > 1


def test_many_columns_are_not_split() -> None:
    product, _ = launches(16, 1, 1024, 65536)
    assert product.arguments["splits"] == 1


def asked(M: int, n: int, K: int, O: int) -> dict[str, list[Tile]]:
    """What a tuning run may try of the two launches."""
    case = {
        "x": torch.empty(M * n, K, dtype=torch.bfloat16),
        "weight": torch.empty(O, K, dtype=torch.bfloat16),
        "into": in_side(torch.empty(3, 8, K, dtype=torch.bfloat16)),
    }
    with tuning.trying({}) as trial:
        linear_splitk.choose(**case, rows=M * n, O=O, K=K)
    return trial.asked


def test_tuning_may_try_several_numbers_of_splits() -> None:
    (name,), (tiles,) = zip(*asked(64, 1, 4096, 4096).items(), strict=True)
    assert name == "linear_splitk half 64x4096x4096"
    assert {tile.rows for tile in tiles} == {64}
    assert len({tile.splits for tile in tiles}) >= 4
    assert len(set(tiles)) == len(tiles) <= 24
    assert min(tile.splits for tile in tiles) >= 1


def test_a_measured_number_of_splits_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,), (tiles,) = zip(*asked(64, 1, 512, 512).items(), strict=True)
    monkeypatch.setenv("PALORA_TUNING", str(tmp_path / "tuned.json"))
    x = torch.empty(64, 512, dtype=torch.bfloat16)

    def chosen() -> Tile:
        return linear_splitk.choose(x, x.new_empty(512, 512), in_side(x.new_empty(3, 8, 512)), 64, 512, 512)

    tuning.forget()
    other = next(tile for tile in tiles if tile.splits != chosen().splits)
    tuning.write(tmp_path / "tuned.json", tuning.Tuning({name: other}), {})
    try:
        assert chosen() == other
    finally:
        monkeypatch.undo()
        tuning.forget()


def test_the_sum_is_rounded_once(device: str) -> None:
    """1 + 2^-8, of two splits, lies between two bfloat16, to be rounded down: the adapters' 2^-12 tip it."""
    row = torch.zeros(1, 32, dtype=torch.bfloat16, device=device)
    row[0, 0], row[0, 16] = 1.0, 2.0**-8
    B = torch.zeros(1, 1, 32, dtype=torch.bfloat16, device=device)
    B[..., 0] = 1.0
    ones: Tensor = torch.ones_like(row)
    lam = torch.full((1, 1), 2.0**-12, device=device)
    with configs.assume(TARGETS["sm_90"], cut(2)), pk.force_plan(linear="splitk"):
        y = pk.linear(row, ones, None, ones[:, :1, None], B, lam, backend="triton")
    assert y.item() == 1 + 2.0**-7
