"""Which table of measured tiles and plans serves a device, and what comes before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")

from palora.cli import doctor
from palora_kernels.triton import shipped, tuning
from palora_kernels.triton.shipped import Gpu
from palora_kernels.triton.tuning import Tile, Tuning

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
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


def test_every_table_that_is_shipped_can_be_read() -> None:
    for path in shipped.tables().values():
        assert tuning.read(path)
