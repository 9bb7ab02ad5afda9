"""Which table of measured tiles and plans serves a device, and what comes before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")

from palora.bench import ops
from palora.bench.device import items
from palora.cli import doctor
from palora_kernels import implementations, plans, versions
from palora_kernels.call import Call, Geometry, Needs
from palora_kernels.factors import LowRank
from palora_kernels.implementations import Plan
from palora_kernels.sizes import Sizes
from palora_kernels.triton.launching import configs, launch, shipped, tuning
from palora_kernels.triton.launching.shipped import Gpu
from palora_kernels.triton.launching.tuning import Tile, Tuning

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
TILE, OTHER = Tile(16, 32, 64, 2, 4), Tile(64, 64, 64, 4, 3)
H100, H200 = Gpu("NVIDIA H100 80GB HBM3", "sm_9", 132), Gpu("NVIDIA H200", "sm_9", 132)
A100 = Gpu("NVIDIA A100-SXM4-80GB", "sm_8", 108)


@pytest.mark.parametrize(
    "gpu, known, expected",
    [
        (H200, [A100, H100, H200], H200),
        (Gpu("NVIDIA H100 PCIe", "sm_9", 114), [A100, H200, H100], H100),  # as near, first by name
        (Gpu("NVIDIA H100 PCIe", "sm_9", 114), [H200, Gpu("NVIDIA X", "sm_9", 100)], Gpu("NVIDIA X", "sm_9", 100)),
        (Gpu("NVIDIA A10", "sm_8", 72), [A100, H100], A100),
        (Gpu("NVIDIA B200", "sm_10", 148), [A100, H100, H200], None),
        (Gpu("AMD Instinct MI300X", "gfx942", 304), [H100], None),
        (H100, [], None),
    ],
)
def test_the_nearest_table(gpu: Gpu, known: list[Gpu], expected: Gpu | None) -> None:
    assert shipped.nearest(gpu, known) == shipped.nearest(gpu, known[::-1]) == expected


@pytest.fixture
def a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The device cuda:0 is an H200, and the folder of tables is empty."""
    folder = tmp_path / "measured"
    monkeypatch.setenv("PALORA_TUNING", str(tmp_path / "own.json"))
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setattr(shipped, "gpu_of", lambda device: H200)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    tuning.forget()
    yield folder
    tuning.forget()


def test_the_users_own_entries_come_before_those_that_were_shipped(
    a_gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.json"
    assert tuning.of(CUDA) == Tuning()
    tuning.write(a_gpu / "one.json", Tuning({"a": TILE, "b": TILE}, {"half linear x": "split"}), shipped.about(H100))
    assert tuning.of(CUDA) == Tuning({"a": TILE, "b": TILE}, {"half linear x": "split"})
    assert tuning.of(CPU) == Tuning()
    tuning.write(file, Tuning({"b": OTHER}, {}), {})
    assert tuning.of(CUDA) == Tuning({"a": TILE, "b": OTHER}, {"half linear x": "split"})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: H200.name)
    text = " ".join(" ".join(row) for row in doctor.tuning())
    assert f"{file}: 1 tiles, 0 plans" in text
    assert "of NVIDIA H100 80GB HBM3, the nearest, shipped: 2 tiles, 1 plans" in text
    tuning.write(a_gpu / "two.json", Tuning({"a": OTHER}, {}), shipped.about(H200))
    assert tuning.of(CUDA) == Tuning({"a": OTHER, "b": OTHER}, {})
    assert "its own, shipped: 1 tiles" in " ".join(" ".join(row) for row in doctor.tuning())
    monkeypatch.setenv("PALORA_TUNING", "off")
    tuning.forget()
    assert tuning.of(CUDA) == Tuning()
    assert tuning.file_of(CUDA) is None
    assert doctor.tuning() == [("tuning", "off (PALORA_TUNING): arithmetic chooses")]


def test_a_table_that_does_not_say_its_device_is_one_clear_error(a_gpu: Path) -> None:
    tuning.write(a_gpu / "one.json", Tuning({"a": TILE}, {}), {"devices": ["one"]})
    with pytest.raises(ValueError, match=r"one\.json should say on which device it was measured"):
        tuning.of(CUDA)
    ((_, mine), (_, text)) = doctor.tuning()
    assert "none in" in mine
    assert text.startswith("damaged: ")


def test_the_h200s_table_serves_it_and_an_h100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_TUNING", "none.json")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    try:
        for gpu, whose in ((H200, "its own, shipped"), (H100, "of NVIDIA H200, the nearest, shipped")):
            monkeypatch.setattr(shipped, "gpu_of", lambda device, gpu=gpu: gpu)
            tuning.forget()
            assert len(tuning.of(CUDA).tiles) > 60
            assert tuning.of(CUDA).plans["half linear stacked rays4 n1024 K4096 O4096 R64"] == "persistent"
            assert whose in " ".join(" ".join(row) for row in doctor.tuning())
        monkeypatch.setattr(shipped, "gpu_of", lambda device: A100)
        tuning.forget()
        assert tuning.of(CUDA) == Tuning()
    finally:
        tuning.forget()


def asked() -> tuple[dict[str, set[Tile]], dict[str, set[str]]]:
    """What launches of all plans may take, by name, and the plans by the op's key: of every shape that
    gpu-check tunes, in bfloat16, recorded without a device."""
    tiles: dict[str, set[Tile]] = {}
    offered: dict[str, set[str]] = {}
    layers = [("linear", shape) for shape in items.LINEAR] + [("conv2d", shape) for shape in ops.CONV]
    for op, shape in layers:
        for algorithm, pair in implementations.algorithms(op, "triton", "cuda").items():
            with tuning.trying({}) as trial, launch.recording():
                of = (linear_key if op == "linear" else conv_key)(shape, algorithm, pair)
            for name, listed in trial.asked.items():
                tiles.setdefault(name, set()).update(listed)
            if of is not None:
                offered.setdefault(of, set()).add(algorithm)
    return tiles, offered


def linear_key(shape: tuple[int, ...], algorithm: str, pair: Plan) -> str | None:
    M, n, K, O, T, r = shape
    x, W, b, A, B = make(M * n, K), make(O, K), make(O), make(T, O, r), make(T, r, K)
    lam = torch.empty(M, T, device=META)
    call = Call(x, W, b, LowRank(A, B, (O, K)), lam, False, 1)
    if algorithm == "persistent" and not plans.offers_persistent(Sizes.of(call, "triton"), True, x):
        return None
    y, S = pair[0](call)
    pair[1](call, y, S, Needs(True, True, True, True, True))
    return key("linear", False, rays=M, n=n, K=K, O=O, R=T * r)


def conv_key(s: ops.ConvShape, algorithm: str, pair: Plan) -> str | None:
    if s.groups > 1 and algorithm == "factored":
        return None
    last = torch.channels_last
    geometry = Geometry([s.stride] * 2, [s.padding] * 2, [1, 1], s.groups)
    x = make(s.n if s.shared else s.M * s.n, s.C, s.H, s.W).to(memory_format=last)
    K = s.C // s.groups * s.k**2
    weight, b, lam = make(s.O, s.C // s.groups, s.k, s.k), make(s.O), torch.empty(s.M, s.T, device=META)
    factors = LowRank(make(s.T, s.O, s.r), make(s.T, s.r, K), weight.shape)
    high, wide = geometry.output_size(x, (s.k, s.k))
    y = make(s.M * s.n, s.O, high, wide).to(memory_format=last)
    needs = Needs(x=not s.shared, weight=True, bias=True, factors=True, lam=True)
    call = Call(x, weight, b, factors, lam, s.shared, 1, geometry, last)
    pair[0](call)
    pair[1](call, y, None, needs)
    sizes = {"rays": s.M, "n": s.n, "positions": high * wide, "K": K, "O": s.O, "R": s.T * s.r}
    return key("conv2d", s.shared, **sizes, elements=s.T + 1, groups=s.groups)


def key(op: str, shared: bool, **sizes: int) -> str:
    rounded = " ".join(f"{name}{tuning.bucket(size)}" for name, size in sizes.items())
    return f"half {op} {'shared' if shared else 'stacked'} {rounded}"


def make(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device=META)


@pytest.mark.parametrize("path", shipped.tables().values(), ids=lambda path: path.stem)
def test_every_entry_that_is_shipped_can_be_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that may not take a tile leaves it (test_bench_tuning.py), so an entry that no launch may take says what
    is not so: whoever changes the candidates of a kernel drops it, or measures again."""
    pytest.importorskip("triton")
    (gpu,) = (gpu for gpu, of in shipped.tables().items() if of == path)
    target = next(name for name in configs.TARGETS if name.startswith(gpu.family))
    monkeypatch.setattr(configs, "_ASSUMED", target)
    monkeypatch.setattr(versions, "DESCRIPTORS", (0, 0))  # as with the release that measured them
    tiles, offered = asked()
    table = tuning.read(path)
    assert table.tiles
    assert table.plans
    assert {name for name, tile in table.tiles.items() if tile not in tiles.get(name, ())} == set()
    assert {name for name, algorithm in table.plans.items() if algorithm not in offered.get(name, ())} == set()
