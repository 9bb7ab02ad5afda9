"""A run that is killed, stopped or interrupted goes on bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import At, DropoutNet, small_set, tiny

import palora.data
from palora.engine import Interrupted, RunFolder, read_metrics, train, validate
from palora.engine.progress import Silent
from palora.errors import PaloraError

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run that nothing interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palora.data, "load", lambda *args, **options: small_set())
        return train(tiny(), tmp_path_factory.mktemp("whole") / "run", make_model=DropoutNet)


def assert_same(left: Any, right: Any, where: str = "checkpoint") -> None:
    """Equal to the last bit, through dictionaries and lists."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for i, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{where}[{i}]")
    else:
        assert left == right, where


def assert_same_run(run: RunFolder, whole: RunFolder) -> None:
    assert run.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
    for path, expected in ((run.last, whole.last), (run.best, whole.best)):
        assert_same(torch.load(path, weights_only=True), torch.load(expected, weights_only=True))


def kill_at(step: int) -> Callable[[Path], None]:
    def stop(folder: Path) -> None:
        paths = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
        child = subprocess.run(
            [sys.executable, str(TESTS / "engine_runs.py"), folder, str(torch.get_num_threads()), str(step)],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            timeout=120,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()

    return stop


def signal_at(step: int, number: signal.Signals) -> Callable[[Path], None]:
    def stop(folder: Path) -> None:
        with pytest.raises(Interrupted, match="resumed"):
            train(
                tiny(),
                folder,
                show=At(step, lambda: os.kill(os.getpid(), number)),
                make_model=DropoutNet,
            )

    return stop


@pytest.mark.parametrize(
    ("stop", "recorded"),
    [
        # Killed in the middle of epoch 2, one step (and its record) after the checkpoint of step 8.
        pytest.param(kill_at(10), 9, id="SIGKILL"),
        pytest.param(signal_at(3, signal.SIGINT), 3, id="SIGINT"),
        pytest.param(signal_at(7, signal.SIGTERM), 7, id="SIGTERM"),
        # The last step of an epoch: the validation that follows must not be lost.
        pytest.param(signal_at(6, signal.SIGINT), 6, id="end-of-epoch"),
        pytest.param(signal_at(12, signal.SIGINT), 12, id="end-of-run"),
    ],
)
@pytest.mark.needs("moocore")
def test_resumed_run_equals_uninterrupted(
    stop: Callable[[Path], None], recorded: int, tmp_path: Path, whole: RunFolder
) -> None:
    folder = tmp_path / "run"
    stop(folder)
    steps = [line for line in read_metrics(folder) if line["kind"] == "step"]
    assert len(steps) == recorded
    torch.manual_seed(999)  # the resumed run must not depend on what was drawn here
    run = train(tiny(), folder, resume=True, make_model=DropoutNet)
    assert_same_run(run, whole)


@pytest.mark.needs("moocore")
def test_stop_during_validation_repeats_the_validation(tmp_path: Path, whole: RunFolder) -> None:
    original = validate.Batches

    def stopping(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "Batches", stopping)
        with pytest.raises(Interrupted, match="after step 6 of 12"):
            train(tiny(), tmp_path / "run", make_model=DropoutNet)
    assert read_metrics(tmp_path / "run")[-1]["kind"] == "step"  # it did not wait for the validation's end
    run = train(tiny(), tmp_path / "run", resume=True, make_model=DropoutNet)
    assert_same_run(run, whole)


@pytest.mark.needs("moocore")
def test_batch_statistics_take_one_update_per_step_and_ray(whole: RunFolder) -> None:
    """Training ran in training mode, validation did not; 12 steps of 3 rays."""
    statistics = torch.load(whole.last, weights_only=True)["model"]
    assert int(statistics["norm.num_batches_tracked"]) == 12 * 3


@pytest.mark.needs("moocore")
def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, whole: RunFolder) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    run = train(tiny(), tmp_path / "run", resume=True, make_model=DropoutNet)
    assert_same_run(run, whole)


@pytest.mark.needs("moocore")
def test_runs_differ_by_seed(tmp_path: Path, whole: RunFolder) -> None:
    other = train(tiny(seed=1, epochs=1), tmp_path / "run", make_model=DropoutNet)
    assert read_metrics(other.path)[0]["losses"] != read_metrics(whole.path)[0]["losses"]
    assert read_metrics(other.path)[0]["rays"] != read_metrics(whole.path)[0]["rays"]


@pytest.mark.needs("moocore")
def test_changed_configuration_is_refused_by_name(whole: RunFolder) -> None:
    changes = {
        "lr": {"lr": 0.5},
        "epochs": {"epochs": 3},
        "seed": {"seed": 5},
        "method_options.rank": {"method_options": {"schedule": "dirichlet", "rays": 3, "rank": 2}},
        "dataset_options.offset": {"dataset_options": {"offset": 8}},
    }
    for key, change in changes.items():
        with pytest.raises(PaloraError, match=f"started with {key} = .*--out"):
            train(tiny(**change), whole.path, resume=True, make_model=DropoutNet)


@pytest.mark.needs("moocore")
def test_what_only_concerns_the_machine_may_change(tmp_path: Path, whole: RunFolder) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    notes: list[str] = []

    class Listening(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    config = replace(tiny(), ray_chunk=1, checkpoint_every=None)
    train(config, tmp_path / "run", resume=True, show=Listening(), make_model=DropoutNet)
    assert any("ray_chunk was auto, now 1" in note for note in notes)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
@pytest.mark.needs("moocore")
def test_damaged_checkpoint_is_one_clear_error(damage: str, tmp_path: Path, whole: RunFolder) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    content = bytearray(run.last.read_bytes())
    if damage == "flipped":  # a bit of a weight: the file still reads as an archive
        weights = torch.load(run.last, weights_only=True)["model"]["first.weight"].numpy().tobytes()
        content[content.index(weights[:64]) + 8] ^= 1
    kept = {"truncated": content[: len(content) // 2], "flipped": content, "empty": b"", "text": b"hello"}
    run.last.write_bytes(kept[damage])
    with pytest.raises(PaloraError, match=r"last\.pt is damaged .*copy best\.pt over it"):
        train(tiny(), run.path, resume=True, make_model=DropoutNet)


@pytest.mark.needs("moocore")
def test_cut_metrics_are_refused(tmp_path: Path, whole: RunFolder) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    RunFolder(tmp_path / "run").metrics_file.write_text("")
    with pytest.raises(PaloraError, match=r"metrics\.jsonl has 0 bytes"):
        train(tiny(), tmp_path / "run", resume=True, make_model=DropoutNet)
