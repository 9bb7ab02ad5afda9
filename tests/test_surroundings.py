"""Where palora runs: terminals, notebooks, archives of other systems, devices that lack something."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import palora
from palora.__main__ import bear_any_encoding
from palora.data import nyuv2, utkface
from palora.data.pictures import Pictures, beside
from palora.layers.context import ray_dtype
from palora.precision import wide, widest, with_float64


def _run(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(p).resolve()) for p in sys.path if p), **environment}
    return subprocess.run([sys.executable, *words], env=env, capture_output=True, timeout=300)


COMMANDS = """
import sys
from palora.__main__ import main
for words in (["recipes"], ["recipes", "census"], ["data", "list", "--data", "/nowhere/\\udcff"]):
    sys.argv = ["palora", *words]
    if main() != 0:
        sys.exit(str(words))
"""


@pytest.mark.needs("typer", "rich", "safetensors", "moocore")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_commands_end_well_in_any_encoding(encoding: str) -> None:
    done = _run("-c", COMMANDS, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert ("λ" in text) == (encoding == "utf-8")
    assert "census" in text


def test_streams_of_other_kinds_are_left_alone() -> None:
    class Odd:
        errors = "strict"

    bear_any_encoding(Odd())
    bear_any_encoding(None)


DRAW = """
import sys
from pathlib import Path
from palora import report
from palora.evaluation import Front
import torch
front = Front(torch.rand(3, 2), torch.rand(3, 2), {}, ("a", "b"))
for kind in ("png", "pdf", "svg"):
    report.front_figure({"front": front}, Path(sys.argv[1]) / f"front.{kind}")
import os
print(os.environ.get("MPLBACKEND"))
import matplotlib
print(matplotlib.rcParams._get("backend"))
"""


@pytest.mark.needs("matplotlib", "moocore")
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "svg"])
def test_figures_are_saved_under_any_backend(backend: str, tmp_path: Path) -> None:
    done = _run("-c", DRAW, str(tmp_path), MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["front.pdf", "front.png", "front.svg"]
    named, used = done.stdout.decode().split("\n")[:2]
    assert named == backend  # left as it was, also for what this process starts
    assert (used == "svg") == (backend == "svg")


@pytest.mark.needs("matplotlib", "typer", "rich", "moocore", "safetensors")
def test_a_command_started_from_a_notebook(tmp_path: Path) -> None:
    backend = "module://matplotlib_inline.backend_inline"
    done = _run("-m", "palora", "toy", "--steps", "3", "--starts", "1", "--out", str(tmp_path), MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "toy.png").is_file()


def test_without_fcntl_layers_work() -> None:
    """As on Windows."""
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "import torch, palora\n"
        "model = palora.adapt(torch.nn.Linear(3, 2), 2, 2)\n"
        "with palora.at(model, (0.3, 0.7)): model(torch.zeros(4, 3)).sum().backward()\n"
    )
    done = _run("-c", code)
    assert done.returncode == 0, done.stderr.decode()


def test_apples_gpus_have_no_float64() -> None:
    mps, cpu = torch.device("mps"), torch.device("cpu")
    rays = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert ray_dtype(rays, mps) == widest(mps) == torch.float32
    assert ray_dtype(rays, cpu) == widest(cpu) == torch.float64
    assert ray_dtype(rays.half(), cpu) == ray_dtype(torch.tensor([1, 0]), mps) == torch.float32
    assert with_float64(rays) is rays
    assert wide(rays.float()).dtype == torch.float64


# ------------------------------------------------------------------------------------------------------------ archives


def _zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _unzipped(path: Path, files: dict[str, bytes]) -> Path:
    folder = path.with_suffix("")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


OF_A_MAC = {"set/a.jpg": b"a", "set/._a.jpg": b"x", "__MACOSX/set/._a.jpg": b"x", "__MACOSX/set/b.jpg": b"x"}


@pytest.mark.parametrize("put", [_zipped, _unzipped])
def test_files_that_a_mac_adds_are_none_of_the_set(put: Callable[..., Path], tmp_path: Path) -> None:
    assert Pictures(put(tmp_path / "p.zip", OF_A_MAC), "").names == ["set/a.jpg"]
    assert [beside(name) for name in OF_A_MAC] == [False, True, True, True]
    assert not beside("set/a._b.jpg")
    assert not beside("_MACOSX/a.jpg")


def _faces(count: int) -> dict[str, bytes]:
    Image = pytest.importorskip("PIL.Image")
    import io

    found = {}
    for i in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (i, 255 - i, 7 * i % 256)).save(buffer, "JPEG")
        found[f"{i + 1}_{i % 2}_{i % 5}_2017011017183672{i:02}.jpg.chip.jpg"] = buffer.getvalue()
    return found


@pytest.mark.needs("safetensors")
@pytest.mark.parametrize("put", [_zipped, _unzipped])
@pytest.mark.parametrize(
    "layout",
    [
        {
            "UTKFace": 40,
            "crop_part1": 15,
            "utkface_aligned_cropped/UTKFace": 40,
            "utkface_aligned_cropped/crop_part1": 15,
        },
        {"crop_part1": 15, "UTKFace": 40},
        {"a": 20, "b": 40, "c/d/e": 40},
        {"UTKFace": 40, "__MACOSX/UTKFace": 40},
    ],
)
def test_a_face_counts_once(
    layout: dict[str, int], put: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))
    faces = _faces(40)
    files = {
        f"{folder}/{'._' if 'MACOSX' in folder else ''}{name}": content
        for folder, count in layout.items()
        for name, content in list(faces.items())[:count]
    }
    place = tmp_path / "utkface"
    place.mkdir()
    found = utkface.labelled(Pictures(put(place / "utkface.zip", files), ""))
    assert len(found) == 40
    assert {name.rsplit("/", 1)[1] for name in found} == set(faces)
    assert len({name.rsplit("/", 1)[0] for name in found}) == 1  # of one folder, the fullest
    if put is _zipped:
        _zipped(place / "._utkface.zip", {"a": b"not the set"})
        data = palora.data.load("utkface", folder=tmp_path)
        assert [len(part) for part in (data.train, data.validation, data.test)] == [28, 4, 8]
        train, test = (part.rows(torch.arange(len(part)))[0] for part in (data.train, data.test))
        assert not any(torch.equal(a, b) for a in test for b in train)


def test_copies_under_other_names_are_known_by_labels_and_date(tmp_path: Path) -> None:
    faces = _faces(12)
    files = {f"UTKFace/{name}": content for name, content in faces.items()}
    files |= {f"UTKFace/{n.removesuffix('.chip.jpg').removesuffix('.jpg')} (1).jpg": c for n, c in faces.items()}
    assert len(utkface.labelled(Pictures(_zipped(tmp_path / "utk.zip", files), ""))) == 12


def test_the_zip_of_nyuv2_is_not_that_of_a_mac(tmp_path: Path) -> None:
    place = tmp_path / "nyuv2"
    place.mkdir()
    _zipped(place / "._nyuv2.zip", {"a": b"x"})
    assert nyuv2.locate(tmp_path) is None
    right = _zipped(place / "nyuv2-small.zip", {"a": b"x"})
    assert nyuv2.locate(tmp_path) == right
