"""Counted bytes and flops of the Triton plans: by hand in small cases, and against the bound for real layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

triton: Any = pytest.importorskip("triton", reason="Triton is not installed")
import triton_toys as toys  # noqa: E402

from palora.models import MLP, LeNet, MultiTaskModel, ResNet18, SegNet  # noqa: E402
from palora_kernels.triton.launching.launch import Launch  # noqa: E402
from palora_kernels.verify import counting, roofline  # noqa: E402
from palora_kernels.verify.networks import LAYERS  # noqa: E402
from palora_kernels.verify.roofline import Layer  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counting interprets; on a GPU kernels are compiled")
RAYS, RIDGE = 5, roofline.RIDGE["sm_90"]


def test_a_copy_moves_what_it_copies() -> None:
    x = torch.empty(1000, device="meta")
    launch = Launch(toys.copy, 10, {"x_ptr": x, "y_ptr": torch.empty_like(x), "size": 1000, "block": 128}, 4, 1)
    exact = counting.cost(launch, samples=10)
    assert (exact.bytes, exact.moved, exact.flops) == (8000, 8000, 0)


def test_a_product_is_counted_with_its_padding_and_its_second_readings() -> None:
    rows, columns, inner = 64, 128, 48  # two by four tiles of 32x32, three steps of 16
    tensors = [torch.empty(*s, device="meta") for s in ((rows, inner), (inner, columns), (rows, columns))]
    arguments = dict(zip(("a_ptr", "b_ptr", "c_ptr"), tensors, strict=True))
    sizes = {"columns": columns, "inner": inner, "block_m": 32, "block_n": 32, "block_k": 16, "precision": "ieee"}
    found = counting.cost(Launch(toys.matmul, 8, {**arguments, **sizes}, 4, 2), samples=2)
    assert found.flops == 2 * rows * columns * inner
    assert found.bytes == 4 * (rows * inner + inner * columns + rows * columns)
    assert found.moved == 4 * (4 * rows * inner + 2 * inner * columns + rows * columns)


def test_elements_that_tensors_share_are_counted_once() -> None:
    x = torch.empty(10, 8, device="meta")
    assert counting.distinct_bytes([x, x[2:5], x.t()]) == 320
    assert counting.distinct_bytes([x[:1].expand(10, 8)]) == 32


def test_operations_of_the_library_are_counted() -> None:
    a, b = torch.empty(4, 8, device="meta"), torch.empty(8, 16, device="meta")
    with counting.Library() as library:
        _ = (a @ b).view(-1).t()
    assert [(c.bytes, c.flops) for c in library.costs] == [(4 * (32 + 128 + 64), 2 * 4 * 8 * 16)]


NETWORKS: list[tuple[str, MultiTaskModel, tuple[int, ...]]] = [
    ("LeNet", LeNet(tasks=2), (256, 1, 28, 28)),
    ("Census", MLP(468, [256], [2, 2]), (256, 468)),
    ("SARCOS", MLP(21, [256, 256, 256], [1] * 7), (512, 21)),
    ("ResNet-18", ResNet18([1, 2, 5]), (128, 3, 64, 64)),
]


@pytest.mark.parametrize("network", [*NETWORKS, "SegNet"], ids=lambda n: n if isinstance(n, str) else n[0])
def test_the_shapes_are_those_of_the_models(network: Any) -> None:
    name, model, shape = ("SegNet", SegNet([7, 1]), (8, 3, 128, 256)) if network == "SegNet" else network
    called: list[tuple[Any, ...]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        x, first = inputs[0], not called
        if isinstance(module, nn.Linear):
            called.append(("linear", len(x), module.in_features, module.out_features, first, (1, 1), (1, 1), 1, 0))
        elif isinstance(module, nn.Conv2d):
            sizes = (tuple(x.shape[2:]), module.kernel_size, module.stride[0], module.padding[0])
            called.append(("conv", len(x), module.in_channels, module.out_channels, first, *sizes))

    for module in model.modules():
        module.register_forward_hook(note)
    model.to("meta")(torch.empty(shape, device="meta"))
    listed = [
        (f.kind, f.n, f.inputs, f.outputs, f.shared, f.side, f.kernel, f.stride, f.padding)
        for f in LAYERS
        if f.network == name
    ]
    assert set(listed) == set(called)


# What a plan may exceed its bound by. Both are explained in docs/kernels.md.
WITHIN = {"conv 256x10x12x12 -> 20, 5x5/1": 1.35, "linear 512x256 -> 1": 1.30}
_LINEAR = [layer for layer in LAYERS if layer.kind == "linear"]
_SMALL = [layer for layer in LAYERS if layer.network == "LeNet" and layer.shared]


@pytest.mark.parametrize(
    "layer",
    [
        *(_LINEAR + _SMALL),
        *(pytest.param(f, marks=pytest.mark.slow) for f in LAYERS if f not in _LINEAR + _SMALL),
    ],
    ids=lambda f: f"{f.network} {f.name}",
)
def test_layers_are_within_15_percent_of_the_bound_of_their_plan(layer: Layer) -> None:
    row = roofline.examine(layer, RAYS, RIDGE)
    assert 0.97 < row.of_plan[0] < 1.15
    assert 0.97 < row.of_plan[1] < WITHIN.get(layer.name, 1.15)
    assert row.of_plan[0] <= row.forward
    assert row.of_plan[1] <= row.backward
    if layer.kind == "linear" and not layer.shared:
        assert row.of_plan == (row.forward, row.backward)
