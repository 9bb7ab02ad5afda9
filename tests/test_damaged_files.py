"""Every kind of file that is read, damaged at random: the right answer, or one sentence of the package's own error."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import engine_runs
import numpy as np
import pytest
import torch
from damage import answered, damaged_bytes, damaged_json
from engine_runs import tiny
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import palora
from palora import data
from palora.bench import table
from palora.data.idx import read_idx
from palora.data.mat5 import read_matrix
from palora.data.npy_frames import Field, NpyFrames, within
from palora.data.pictures import Pictures
from palora.engine import RunConfig, RunFolder, evaluate, read_metrics, train
from palora.engine.ablate import Cell, finished, measures
from palora.engine.setup import assemble
from palora.engine.state import load_checkpoint, load_weights
from palora.engine.trainer import initial_state
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.models import ResNet20
from palora_kernels.triton import tuning

QUICK, MANY = 40, 2500
_common = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "print_blob": False}


def fuzz(examples: int = QUICK) -> Any:
    """A few cases by default, the same ones every time."""
    return settings(max_examples=examples, derandomize=True, phases=[Phase.generate], **_common)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small trained and evaluated run; its data are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda *a, **k: engine_runs.small_set())
        folder = tmp_path_factory.mktemp("runs") / "run"
        found = train(tiny(epochs=1), folder)
        evaluate(folder)
        yield found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def restored(path: Path, content: bytes, use: Callable[[], Any], errors: Any = (PaloraError,)) -> Any:
    """What `use` answers while `path` holds `content`; the file is as it was afterwards."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        return answered(use, errors)
    finally:
        path.write_bytes(before)


# Each kind: how a damaged file is drawn, and what is done with it. --------------------------------------------------


def configuration(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    def use() -> None:
        assemble(RunConfig.read(run.config_file))

    # Options of models and data are arguments like any others: a bad one is a ValueError.
    restored(run.config_file, drawn.draw(damaged_json(run.config_file.read_text())), use, (PaloraError, ValueError))


def checkpoint(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    good, parts = load_checkpoint(run.last)["model"], _parts()

    def use() -> Any:
        found = load_checkpoint(run.last)
        load_weights(parts.model, found["model"])
        return found["model"]

    found = restored(run.last, drawn.draw(damaged_bytes(run.last.read_bytes())), use)
    if not isinstance(found, PaloraError):  # no damage gets past the checksums
        assert all(torch.equal(found[name], good[name]) for name in good)


@cache
def _parts() -> Any:
    return assemble(tiny(epochs=1))


SNAPSHOT_VALUES = (None, True, -1, 10**20, float("nan"), "x", [], {}, {"a": {}}, torch.zeros(3), torch.zeros(2, 2), ())


def snapshot(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    """A sound archive that says something else: another method's, another version's, a made-up one."""
    content = torch.load(run.last, weights_only=True)
    holder: Any = content
    for _ in range(drawn.draw(st.integers(0, 3))):
        nested = [v for v in (holder.values() if isinstance(holder, dict) else holder) if isinstance(v, dict) and v]
        holder = drawn.draw(st.sampled_from(nested)) if nested else holder
    key = drawn.draw(st.sampled_from(sorted(holder, key=str)))
    if drawn.draw(st.booleans()):
        holder[key] = drawn.draw(st.sampled_from(SNAPSHOT_VALUES))
    else:
        del holder[key]
    buffer = io.BytesIO()
    torch.save(content, buffer)

    def use() -> None:
        state = initial_state(_parts(), tiny(epochs=1))
        state.restore(load_checkpoint(run.last))
        for parameter in state.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        state.optimizer.step()
        state.method.rays(0.5)

    restored(run.last, buffer.getvalue(), use)


def metrics(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    from palora.report.curves import convergence_figure, hypervolume_figure

    lines = run.metrics_file.read_text().splitlines(keepends=True)
    at = drawn.draw(st.integers(0, len(lines) - 1))
    before, after = "".join(lines[:at]), "".join(["\n", *lines[at + 1 :]])
    content = before.encode() + drawn.draw(damaged_json(lines[at])) + after.encode()

    def use() -> None:
        records = read_metrics(run.path)
        if any(r["kind"] == "epoch" and "validation" in r for r in records):
            hypervolume_figure({"palora": run.path})
            convergence_figure({"palora": run.path})

    restored(run.metrics_file, content, use)


def front(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    config = RunConfig.read(run.config_file)

    def use() -> None:
        summarised = finished(Cell({}, 0, config, run.path), "test")
        if summarised is not None:
            measures(summarised)
        found = Front.load(run.front_file)
        assert Front.from_json(found.to_json()) == found
        assert found.rays.shape == found.losses.shape

    restored(run.front_file, drawn.draw(damaged_json(run.front_file.read_text())), use)


def _adapted() -> nn.Module:
    torch.manual_seed(0)
    return palora.adapt(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), ["left", "right"], 2)


def adapters(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    path, model = scratch / "adapters.safetensors", _adapted()
    palora.save_adapters(_adapted(), path, base=True)
    content = path.read_bytes()
    if drawn.draw(st.booleans()):
        length = struct.unpack("<Q", content[:8])[0]
        header = drawn.draw(damaged_json(content[8 : 8 + length].decode()))
        content = struct.pack("<Q", len(header)) + header + content[8 + length :]
    else:
        content = drawn.draw(damaged_bytes(content))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path.write_bytes(content)
    found = answered(lambda: palora.load_adapters(model, path))
    if isinstance(found, PaloraError):  # nothing is half loaded
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


TUNED = {
    "about": {"gpu": {"name": "A", "family": "sm_9", "processors": 100}},
    "tiles": {"linear_splitk half 64x64x64": {"rows": 64, "columns": 64, "depth": 32, "num_warps": 4, "num_stages": 2}},
    "plans": {"half linear stacked": "merged"},
}


def tuned(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    path = scratch / "tuned.json"
    path.write_bytes(drawn.draw(damaged_json(json.dumps(TUNED))))
    tuning.read.cache_clear()
    answered(lambda: tuning.read(path), (ValueError,))
    tuning.shipped.tables.cache_clear()
    (scratch / "tables").mkdir(exist_ok=True)
    path.replace(scratch / "tables" / "a.json")
    answered(lambda: tuning.shipped.tables(scratch / "tables"), (ValueError,))


def bench_table(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    times = {"minimum": 1e-3, "median": 2e-3, "rounds": 5}
    row = {"group": "g", "name": "n", "plan": "p", "error": 0.0, "tolerance": 1e-3}
    content = {"format": 1, "header": {}, "rows": [{**row, "times": {"ours": times, "floor": times}, "peak_bytes": {}}]}
    good, path = scratch / "good.json", scratch / "table.json"
    good.write_text(json.dumps(content))
    path.write_bytes(drawn.draw(damaged_json(json.dumps(content))))
    answered(lambda: table.compare(path, good))


@cache
def _results() -> str:
    """A small cut of a file that a GPU wrote: one result of each kind."""
    whole = json.loads((Path(__file__).parents[1] / "results" / "gpu-check" / "h200.json").read_text())
    kinds = {tuple(sorted(result)): name for name, result in whole["times"].items()}
    whole["times"] = {name: whole["times"][name] for name in kinds.values()}
    whole["values"] = dict(list(whole["values"].items())[:2])
    return json.dumps(whole)


def gpu_check(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    from palora.bench.device import figure, measured, report, results

    path = scratch / "results.json"
    path.write_bytes(drawn.draw(damaged_json(_results())))

    def use() -> None:
        content = results.load(path)
        report.show(content)
        figure.check_figure(content, scratch / "results.png")
        measured.tuned(content)

    answered(use, (PaloraError, ValueError))


IDX = struct.pack(">HBBII", 0, 8, 2, 10, 7) + bytes(range(70))


def idx(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    path, zipped = scratch / "images", drawn.draw(st.booleans())
    path.write_bytes(drawn.draw(damaged_bytes(gzip.compress(IDX, mtime=0) if zipped else IDX)))
    found = answered(lambda: read_idx(path))
    if zipped and not isinstance(found, PaloraError):
        assert found.tobytes() == IDX[12:]


def mat5_bytes(values: np.ndarray, zipped: bool) -> bytes:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)

    parts = [(6, struct.pack("<II", 6, 0)), (5, struct.pack("<ii", *values.shape)), (1, b"a"), (9, values.tobytes("F"))]
    matrix = element(14, b"".join(element(*part) for part in parts))
    body = zlib.compress(matrix)
    return bytes(124) + b"\0\1IM" + (struct.pack("<II", 15, len(body)) + body if zipped else matrix)


def mat5(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    path = scratch / "a.mat"
    path.write_bytes(drawn.draw(damaged_bytes(mat5_bytes(np.arange(12.0).reshape(4, 3), drawn.draw(st.booleans())))))
    found = answered(lambda: read_matrix(path, "a"))
    assert isinstance(found, PaloraError) or found.ndim == 2


def npy(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.full((4, 4, 3), 0.5, dtype=np.float32))
    folder = scratch / "frames" / "image"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0.npy").write_bytes(buffer.getvalue())
    (folder / "1.npy").write_bytes(drawn.draw(damaged_bytes(buffer.getvalue())))
    frames = NpyFrames(folder.parent, (Field("image", 3, within(0, 1)),), "Get it again.")
    found = answered(frames.verify)
    assert isinstance(found, PaloraError) or found == (4, 4)


@cache
def _png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    buffer = io.BytesIO()
    whole = drawn.draw(st.booleans())
    method = drawn.draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.png", _png() if whole else drawn.draw(damaged_bytes(_png())))
    path = scratch / "pictures.zip"
    path.write_bytes(drawn.draw(damaged_bytes(buffer.getvalue())) if whole else buffer.getvalue())

    def use() -> Any:
        found = Pictures(path, "Get it again.")
        return [found.pixels(name, "RGB", (8, 8)) for name in found.names]

    answered(use)


def pretrained(run: RunFolder, scratch: Path, drawn: st.DataObject) -> None:
    path = scratch / "weights.pt"
    path.write_bytes(drawn.draw(damaged_bytes(_resnet())))
    answered(lambda: ResNet20((10,)).load_pretrained(path))


@cache
def _resnet() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": ResNet20((10,)).trunk.state_dict()}, buffer)
    return buffer.getvalue()


KINDS = (
    configuration,
    checkpoint,
    snapshot,
    metrics,
    front,
    adapters,
    tuned,
    bench_table,
    gpu_check,
    idx,
    mat5,
    npy,
    pictures,
    pretrained,
)
SLOW_TO_USE = {metrics: 12, gpu_check: 15, pretrained: 15, snapshot: 25}
by_name = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@by_name
def test_a_damaged_file_is_answered(kind: Callable[..., None], run: RunFolder, scratch: Path) -> None:
    @fuzz(SLOW_TO_USE.get(kind, QUICK))
    @given(drawn=st.data())
    def check(drawn: st.DataObject) -> None:
        kind(run, scratch, drawn)

    check()


@pytest.mark.slow
@by_name
def test_thousands_of_damaged_files(kind: Callable[..., None], run: RunFolder, scratch: Path) -> None:
    many = MANY * SLOW_TO_USE.get(kind, QUICK) // QUICK

    @settings(max_examples=many, phases=[Phase.generate], **_common)
    @given(drawn=st.data())
    def check(drawn: st.DataObject) -> None:
        kind(run, scratch, drawn)

    check()
