"""CIFAR's ResNet-20: counts, a second writing, and weights of others as a start for a front."""

from __future__ import annotations

import importlib.util
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import palora
from palora.errors import PaloraError
from palora.models import ResNet20

ROOT = Path(os.environ.get("PALORA_DATA") or os.devnull)  # below which there is nothing
WEIGHTS, FACES = ROOT / "pretrained" / "resnet20-12fca82f.th", ROOT / "utkface" / "utkface_64x64.zip"


def test_parameter_counts() -> None:
    model = ResNet20((10,))
    assert sum(p.numel() for p in model.trunk.parameters()) == 269_072
    assert sum(p.numel() for p in model.parameters()) == 269_722  # as published for CIFAR-10


def second_writing(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Evaluation mode, from the weights alone: names and shapes decide."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        y = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(y, *(state[f"{norm}.{name}"] for name in names))

    x = F.relu(conv_norm(x, "conv1", "bn1"))
    for stage in (1, 2, 3):
        for block in range(3):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(conv_norm(x, f"{at}.conv1", f"{at}.bn1", stride))
            y = conv_norm(y, f"{at}.conv2", f"{at}.bn2")
            skip = torch.zeros_like(y)
            missing = (y.shape[1] - x.shape[1]) // 2
            skip[:, missing : missing + x.shape[1]] = x[:, :, ::stride, ::stride]
            x = F.relu(y + skip)
    return x.mean((2, 3))


def random_weights(path: Path, prefix: str = "module.") -> dict[str, Tensor]:
    trunk = ResNet20((1,)).trunk
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.add_(0.3 * torch.rand_like(tensor))
    state = trunk.state_dict()
    named = {**state, "linear.weight": torch.zeros(10, 64), "linear.bias": torch.zeros(10)}
    torch.save({"best_prec1": 0.0, "state_dict": {prefix + k: v for k, v in named.items()}}, path)
    return state


@pytest.mark.parametrize("size", [(32, 32), (31, 18)])
def test_equals_a_second_writing(size: tuple[int, int], tmp_path: Path) -> None:
    state = random_weights(tmp_path / "w.th")
    model = ResNet20((2, 3))
    heads = [p.clone() for p in model.heads.parameters()]
    model.load_pretrained(tmp_path / "w.th")
    assert all(torch.equal(p, q) for p, q in zip(model.heads.parameters(), heads, strict=True))
    x = torch.randn(2, 3, *size)
    outputs = model.eval()(x)
    features = second_writing(state, x)
    for head, y in zip(model.heads, outputs, strict=True):
        torch.testing.assert_close(y, head(features), rtol=1e-4, atol=1e-4)


def test_other_files_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text.th").write_text("hello")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}}, tmp_path / "other.th")
    torch.save([1, 2], tmp_path / "list.th")
    for name in ("text.th", "other.th", "list.th", "missing.th"):
        with pytest.raises(PaloraError, match=f"{name} does not hold the weights of a CIFAR ResNet-20"):
            ResNet20((1,)).load_pretrained(tmp_path / name)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="PALORA_DATA has no pretrained/resnet20-12fca82f.th")
def test_published_weights_load_whole() -> None:
    model = ResNet20((1, 2))
    model.load_pretrained(WEIGHTS)
    content = torch.load(WEIGHTS, map_location="cpu", weights_only=True)["state_dict"]
    state = {name.removeprefix("module."): value for name, value in content.items()}
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.eval().trunk(x), second_writing(state, x), rtol=1e-4, atol=1e-4)


def example() -> ModuleType:
    file = Path(__file__).parent.parent / "docs" / "examples" / "expand_pretrained.py"
    spec = importlib.util.spec_from_file_location("expand_pretrained", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    not (WEIGHTS.is_file() and FACES.is_file()), reason="PALORA_DATA has not both utkface/ and pretrained/"
)
def test_a_front_around_a_network_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """253 faces: the frozen network stays to the last bit, and the adapters give an ordered front."""
    (tmp_path / "utkface").mkdir()
    (tmp_path / "pretrained").symlink_to(WEIGHTS.parent)
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PALORA_BACKEND", "eager")
    with zipfile.ZipFile(FACES) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".jpg"))[::94]:
            (tmp_path / "utkface" / Path(name).name).write_bytes(archive.read(name))
    result = example().run(tmp_path, faces=None, epochs=6, batch=32)
    before = torch.load(WEIGHTS, map_location="cpu", weights_only=True)["state_dict"]
    state = result.model.trunk.state_dict()
    for name, value in before.items():
        if not name.startswith("module.linear."):
            assert torch.equal(state[name.removeprefix("module.")], value), name
    front = result.front
    assert len(front) == 11
    assert front.losses.isfinite().all()
    # Each end is better than the other at its own task.
    assert front.losses[0, 0] < front.losses[-1, 0]
    assert front.losses[-1, 1] < front.losses[0, 1]
    assert isinstance(palora.merge(result.model, (0.5, 0.5)), nn.Module)
