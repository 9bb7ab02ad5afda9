"""What the networks compute: shapes, layouts, independent rows, and the values of a second writing."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palora.models import MLP, LeNet, ResNet18, SegNet

MODELS = {
    "lenet": (lambda: LeNet(3, in_channels=2, classes=4), (2, 28, 28), [(4,)] * 3),
    "mlp": (lambda: MLP(5, (7, 6), (1, 3)), (5,), [(1,), (3,)]),
    "resnet18": (lambda: ResNet18((1, 2, 5), image_size=32), (3, 32, 32), [(1,), (2,), (5,)]),
    "segnet": (lambda: SegNet((7, 1)), (3, 32, 64), [(7, 32, 64), (1, 32, 64)]),
}
SMALL = ["lenet", "mlp"]
IMAGES = ["lenet", "resnet18", "segnet"]
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}


def made(name: str, rows: int = 3) -> tuple[nn.Module, Tensor]:
    """The model in evaluation mode and float64, BatchNorm unlike its initial state, and a batch."""
    torch.manual_seed(0)
    make, shape, _ = MODELS[name]
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model, torch.randn(rows, *shape, dtype=torch.float64)


def close(actual, expected) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, **TOLERANCE)


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_one_output_per_task_with_the_rows_of_the_input(name: str, rows: int) -> None:
    model, x = made(name, rows)
    outputs = model(x)
    assert isinstance(outputs, tuple)
    assert [tuple(y.shape) for y in outputs] == [(rows, *shape) for shape in MODELS[name][2]]
    assert all(y.dtype == torch.float64 for y in outputs)


@pytest.mark.parametrize("name", MODELS)
def test_rows_do_not_mix_in_evaluation_mode(name: str) -> None:
    model, x = made(name, rows=4)
    apart = [model(x[:1]), model(x[1:])]
    close(model(x), [torch.cat(pair) for pair in zip(*apart, strict=True)])


@pytest.mark.parametrize("name", MODELS)
def test_shared_and_task_parameters_partition_all_parameters(name: str) -> None:
    model = MODELS[name][0]()
    groups = [model.shared_parameters(), *(model.task_parameters(t) for t in range(len(MODELS[name][2])))]
    listed = [id(p) for group in groups for p in group]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_a_task_loss_reaches_the_trunk_and_its_own_head_only(name: str) -> None:
    model, x = made(name)
    model.train()
    model(x)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.shared_parameters())
    assert all(p.grad is not None for p in model.task_parameters(0))
    assert all(p.grad is None for p in model.task_parameters(1))
    assert any(p.grad.abs().sum() > 0 for p in model.last_shared_layer.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_last_shared_layer_feeds_the_heads(name: str) -> None:
    """Every head's input is a function of that layer's output: silencing the layer makes all rows equal."""
    model, x = made(name)
    assert {id(p) for p in model.last_shared_layer.parameters()} <= {id(p) for p in model.shared_parameters()}
    model.last_shared_layer.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
    for y in model(x):
        torch.testing.assert_close(y, y[:1].expand_as(y))


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("training", [False, True])
def test_channels_last_equals_channels_first(name: str, training: bool) -> None:
    model, x = made(name)
    model.train(training)
    expected = model(x)
    gradients = torch.autograd.grad(sum(y.sum() for y in expected), model.shared_parameters())
    model = model.to(memory_format=torch.channels_last)
    actual = model(x.contiguous(memory_format=torch.channels_last))
    close(actual, expected)
    for a, e in zip(
        torch.autograd.grad(sum(y.sum() for y in actual), model.shared_parameters()), gradients, strict=True
    ):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-6)  # entries reach 1e4 and cancel in BatchNorm


def compiled_equals_eager(name: str, backend: str) -> None:
    model, x = made(name)
    torch._dynamo.reset()
    close(torch.compile(model, fullgraph=True, backend=backend)(x), model(x))


@pytest.mark.parametrize("name", SMALL)
def test_compiles_as_one_graph(name: str) -> None:
    compiled_equals_eager(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "segnet"])
def test_compiles_as_one_graph_deep(name: str) -> None:
    compiled_equals_eager(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile for the CPU needs g++")
@pytest.mark.parametrize("name", SMALL)
def test_compiled_by_inductor_equals_eager(name: str) -> None:
    compiled_equals_eager(name, "inductor")


def test_lenet_equals_its_definition() -> None:
    model, x = made("lenet")
    w, outputs = model.state_dict(), model(x)

    def linear(name: str, y: Tensor) -> Tensor:
        return y @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for i in (1, 2):
        x = F.conv2d(x, w[f"trunk.conv{i}.weight"], w[f"trunk.conv{i}.bias"])
        x = F.max_pool2d(x, 2).clamp(min=0)
    x = linear("trunk.fc", x.reshape(len(x), 320)).clamp(min=0)
    expected = [linear(f"heads.{t}.fc2", linear(f"heads.{t}.fc1", x).clamp(min=0)) for t in range(3)]
    close(outputs, expected)


def test_mlp_equals_its_definition() -> None:
    model, x = made("mlp")
    w = model.state_dict()
    h = (x @ w["trunk.fc1.weight"].T + w["trunk.fc1.bias"]).clamp(min=0)
    h = (h @ w["trunk.fc2.weight"].T + w["trunk.fc2.bias"]).clamp(min=0)
    close(model(x), [h @ w[f"heads.{t}.weight"].T + w[f"heads.{t}.bias"] for t in range(2)])


def normalised(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Batch normalisation by the running statistics, written out."""
    mean, var, scale, shift = (
        w[f"{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def test_resnet_equals_its_definition() -> None:
    model, x = made("resnet18")
    w = model.state_dict()

    def conv(name: str, norm: str, y: Tensor, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        return normalised(w, norm, F.conv2d(y, kernel, stride=stride, padding=kernel.shape[-1] // 2))

    h = conv("trunk.conv1", "trunk.bn1", x).clamp(min=0)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"trunk.layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = conv(f"{name}.conv1", f"{name}.bn1", h, stride).clamp(min=0)
            y = conv(f"{name}.conv2", f"{name}.bn2", y)
            skip = conv(f"{name}.shortcut.conv", f"{name}.shortcut.bn", h, 2) if stride == 2 else h
            h = (y + skip).clamp(min=0)
    features = h.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).mean((3, 5)).reshape(len(x), -1)
    close(model(x), [features @ w[f"heads.{t}.weight"].T + w[f"heads.{t}.bias"] for t in range(3)])


def unpooled(x: Tensor, before: Tensor) -> Tensor:
    """Each value of `x` where its 2 × 2 window of `before` (n, C, 2h, 2w) has its first maximum."""
    windows = before.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4).flatten(4)  # n, C, h, w, 4
    highest = windows == windows.amax(-1, keepdim=True)
    placed = torch.where(highest & (highest.cumsum(-1) == 1), x[..., None], 0)
    return placed.unflatten(4, (2, 2)).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def test_segnet_equals_its_definition() -> None:
    model, x = made("segnet")
    w = model.state_dict()
    depths = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}

    def stage(name: str, depth: int, y: Tensor) -> Tensor:
        for i in range(depth):
            block = f"{name}.blocks.{i}"
            y = F.conv2d(y, w[f"{block}.conv.weight"], w[f"{block}.conv.bias"], padding=1)
            y = normalised(w, f"{block}.bn", y).clamp(min=0)
        return y

    h, before = x, {}
    for i, depth in depths.items():
        before[i] = stage(f"trunk.encoder.stage{i}", depth, h)
        h = F.max_pool2d(before[i], 2)
    for i in (5, 4, 3, 2, 1):
        h = stage(f"trunk.decoder.stage{i}", depths[i], unpooled(h, before[i]))
    expected = []
    for t in range(2):
        first, second = f"heads.{t}.conv1", f"heads.{t}.conv2"
        y = F.conv2d(h, w[f"{first}.weight"], w[f"{first}.bias"], padding=1)
        expected.append(F.conv2d(y, w[f"{second}.weight"], w[f"{second}.bias"]))
    close(model(x), expected)


def test_segnet_widths_are_the_published_ones() -> None:
    model = SegNet((13, 1, 3))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    down = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
    down += [(512, 512)] * 5
    up = [(512, 512)] * 3 + [(512, 256), (256, 256), (256, 256), (256, 128), (128, 128), (128, 128)]
    up += [(128, 64), (64, 64), (64, 64), (64, 64)]
    heads = [(64, 64), (64, 13), (64, 64), (64, 1), (64, 64), (64, 3)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == down + up + heads
    assert [c.kernel_size[0] for c in convolutions] == [3] * 26 + [3, 1] * 3
    assert all(c.bias is not None and not c.bias.any() for c in convolutions)


def test_segnet_keeps_odd_sizes() -> None:
    model = SegNet((2, 1)).eval()
    assert [tuple(y.shape) for y in model(torch.randn(1, 3, 35, 46))] == [(1, 2, 35, 46), (1, 1, 35, 46)]


def test_segnet_scales_the_chosen_task_to_unit_length() -> None:
    torch.manual_seed(0)
    plain, unit = SegNet((2, 3)).eval(), SegNet((2, 3), unit_length=(1,)).eval()
    unit.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    raw, scaled = plain(x), unit(x)
    torch.testing.assert_close(scaled[0], raw[0])
    torch.testing.assert_close(scaled[1] * raw[1].norm(dim=1, keepdim=True), raw[1])
    torch.testing.assert_close(scaled[1].norm(dim=1), torch.ones(2, 32, 32))


def test_unit_length_of_a_zero_vector_has_a_finite_gradient() -> None:
    model = SegNet((3,), unit_length=(0,)).eval()
    for p in model.task_parameters(0):
        nn.init.zeros_(p)
    (y,) = model(torch.randn(1, 3, 32, 32))
    y.sum().backward()
    assert not y.any()
    assert all(p.grad.isfinite().all() for p in model.parameters())
