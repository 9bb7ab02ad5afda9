"""What differs between releases of torch and triton: each difference, on the release that is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from palora_kernels import versions
from palora_kernels.native import build_cuda
from palora_kernels.triton.launching import spills
from palora_kernels.triton.launching.tuning import Tile

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _precision_as_it_was() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_the_release_is_read_from_any_version() -> None:
    assert versions.release("2.11.0+cu130") == (2, 11)
    assert versions.release("2.9.0a0+git12") == (2, 9)
    assert torch.__version__.startswith("{}.{}.".format(*versions.TORCH))


def test_tf32_is_what_the_user_asked_for() -> None:
    assert not versions.matmul_in_tf32()
    torch.set_float32_matmul_precision("high")
    assert versions.matmul_in_tf32()
    torch.set_float32_matmul_precision("highest")
    assert not versions.matmul_in_tf32()
    torch.backends.cuda.matmul.allow_tf32 = True
    assert versions.matmul_in_tf32()


@pytest.mark.parametrize("asked", [False, True])
def test_the_setting_of_convolutions_is_read_as_the_user_left_it(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", asked)
    assert versions.convolutions_in_tf32() == asked


def test_an_unknown_release_of_triton_spills_whatever_any_did(monkeypatch: pytest.MonkeyPatch) -> None:
    only_36 = "linear_project", "ieee", "sm_80", Tile(64, 64, 16, 4, 3)
    only_38 = "linear_product", "ieee", "sm_100", Tile(32, 32, 16, 4, 3)
    for release, expected in (((3, 6), [True, False]), ((3, 8), [False, True]), ((9, 9), [True, True])):
        monkeypatch.setattr(versions, "triton_release", lambda release=release: release)
        assert [spills.spills(*entry) for entry in (only_36, only_38)] == expected, release


def test_a_torch_without_the_stable_abi_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_cuda.STABLE_ABI == "0x020a000000000000"
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert build_cuda.torch_obstacle() == "it uses the stable ABI of torch 2.10 or newer, and this is torch 2.9.1+cu128"


def test_the_constraints_files_are_the_pinned_pairs_and_the_metadata_allow_them() -> None:
    def pinned(name: str, package: str) -> str:
        [found] = re.findall(rf"^{package}==([\d.]+)", (ROOT / name).read_text(), re.MULTILINE)
        return str(found)

    files = ("constraints.txt", "constraints-2.11.txt", "constraints-oldest.txt")
    assert tuple((pinned(f, "torch"), pinned(f, "triton")) for f in files) == versions.PINNED
    for package, least in re.findall(r'"([a-z]+)>=([\d.]+)[";]', (ROOT / "pyproject.toml").read_text()):
        if package in ("torch", "numpy", "moocore", "safetensors", "pillow", "matplotlib", "rich", "typer"):
            oldest = pinned(files[2], package)
            assert oldest == least or re.fullmatch(rf"{re.escape(least)}(\.\d+)+", oldest), package
    readme = (ROOT / "README.md").read_text()
    assert all(torch_ in readme and triton in readme for torch_, triton in versions.PINNED)
