"""`palora train` and `palora evaluate`, as a person at the terminal sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from engine_runs import At, small_set, tiny

pytest.importorskip("typer")

import palora.data
from palora.cli import main
from palora.cli.train import resume_command
from palora.engine import RunFolder, read_metrics
from palora.engine.config import RunConfig

RUN = ["train", "multimnist-small", "--epochs", "1", "--batch", "32", "--limit", "64", "--rays", "2"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())
    monkeypatch.delenv("PALORA_DEBUG", raising=False)


def failure(capsys: pytest.CaptureFixture[str], *words: str, status: int = 1) -> str:
    """The one line that a failing command leaves on stderr."""
    capsys.readouterr()
    assert main(words) == status
    error = capsys.readouterr().err
    assert error.startswith("palora: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


@pytest.mark.needs("moocore")
def test_train_then_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN[:-2], "--method", "ls"]) == 0
    assert main([*RUN, "--alpha", "2"]) == 0
    out = capsys.readouterr().out
    folder = Path("runs/multimnist-small-palora-seed0")
    assert {p.name for p in folder.iterdir()} == {
        *("checkpoints", "config.json", "environment.json", "front.json", "front.pdf", "front.png"),
        *("metrics.jsonl", "samples.json", "costs.jsonl"),
    }
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "config.json").read_text())["method_options"]["alpha"] == 2
    for text in (
        "The small bundled set",
        "epoch 1/1  step 2/2  left ",
        "rays/s",
        "1.00 0.00",
        "reference (1, 1)",
        "reference (0, 0)",
        "nondominated",
        "of 11 rays",
        "spearman",
        "best of grid",
        "ray centre",
        "control ls",  # the run beside it
        f"{folder}/front.png",
    ):
        assert text in out, text
    assert "\x1b" not in out  # no colours, no moving cursor
    assert main(["evaluate", str(folder), "--split", "validation"]) == 0
    assert json.loads((folder / "front.json").read_text())["summary"]["split"] == "validation"


@pytest.mark.needs("moocore")
def test_flags_reach_the_run() -> None:
    words = "--lr 0.01 --seed 7 --precision bf16 --offset 8 --ray-chunk 1 --rank 2 --form matricised --out here"
    assert main([*RUN, *words.split(), "--graph", "off"]) == 0
    config = RunConfig.read(Path("here/config.json"))
    assert (config.lr, config.seed, config.precision, config.ray_chunk) == (0.01, 7, "bf16", 1)
    assert config.graph == "off"
    assert config.dataset_options == {"offset": 8}
    options = config.method_options
    assert (options["rank"], options["form"], options["rays"]) == (2, "matricised", 2)
    shapes = torch.load("here/checkpoints/last.pt", weights_only=True)["model"]
    assert shapes["trunk.conv1.lora_A"].shape == (2, 10, 2)


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        ("train multimnits", 1, "no recipe 'multimnits'. Did you mean multimnist"),
        ("train multimnist-small --method sl", 1, "no method 'sl'. Did you mean"),
        ("train multimnist-small --method ls --rank 2", 1, "The method 'ls' has no option `rank`"),
        ("train multimnist-small --epochs 0", 1, "`epochs` should be an integer >= 1. Found 0."),
        ("train multimnist-small --rank 0", 1, "`rank` should be"),
        ("train multimnist-small --offset 9", 1, "`offset` should be"),
        ("train multimnist-small --schedule linear", 1, "`schedule` should be one of annealed"),
        ("train multimnist-small --precision fp8", 1, "`precision` should be fp32 or bf16"),
        ("train multimnist-small --device tpu", 1, "`device` 'tpu' cannot be used here"),
        ("train multimnist-small --resume", 1, "no run in runs/multimnist-small-palora-seed0 to resume"),
        ("train multimnist --data nowhere", 1, "nowhere"),
        ("train multimnist-small --epochs three", 2, "--epochs"),
        ("train multimnist-small --rnak 2", 2, "--rnak"),
        ("train", 2, "RECIPE"),
        ("trian", 2, "No such command 'trian'"),
        ("evaluate nowhere", 1, "nowhere is not a run folder"),
        ("data prepare mnits", 1, "mnits"),
    ],
)
@pytest.mark.needs("moocore")
def test_errors_are_one_sentence(
    words: str,
    status: int,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    assert expected in failure(capsys, *words.split(), status=status)
    assert not Path("runs").exists()


@pytest.mark.needs("moocore")
def test_errors_about_run_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    assert "is not empty: go on with --resume" in failure(capsys, *RUN)
    changed = failure(capsys, *RUN, "--resume", "--rank", "3")
    assert "started with method_options.rank = 1, not 3" in changed
    other = ["--method", "ls", "--resume", "--out", "runs/multimnist-small-palora-seed0"]
    assert "started with method = palora, not ls" in failure(capsys, *RUN[:-2], *other)
    last = Path("runs/multimnist-small-palora-seed0/checkpoints/last.pt")
    last.write_bytes(last.read_bytes()[:1000])
    assert "last.pt is damaged" in failure(capsys, "evaluate", "runs/multimnist-small-palora-seed0")
    assert "last.pt is damaged" in failure(capsys, *RUN, "--resume")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--debug", "train", "nothing"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("PALORA_DEBUG", "1")
    assert main(["train", "nothing"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("PALORA_DEBUG", "0")
    failure(capsys, "train", "nothing")


@pytest.mark.needs("moocore")
def test_unexpected_errors_are_one_sentence_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise KeyError("a defect\nin two lines")

    monkeypatch.setattr(palora.data, "load", broken)
    error = failure(capsys, *RUN)
    assert "unexpected KeyError" in error
    assert "--debug" in error


@pytest.mark.needs("moocore")
def test_resume_takes_the_settings_of_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, then resumed by the command that the message gives, equals the run in one go."""
    assert main([*RUN, "--seed", "3", "--out", "whole"]) == 0
    show = At(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with monkeypatch.context() as patch:
        patch.setattr("palora.engine.progress.reporter", lambda console: show)
        assert main([*RUN, "--seed", "3", "--out", "my run"]) == 130
    error = capsys.readouterr().err
    command = "palora train multimnist-small --out 'my run' --resume"
    assert error == f"palora: Stopped by Ctrl-C after step 1 of 2; my run can be resumed. Go on with: {command}\n"
    assert main(["train", "multimnist-small", "--out", "my run", "--resume"]) == 0
    whole, resumed = RunFolder("whole"), RunFolder("my run")
    assert resumed.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
    assert resumed.front_file.read_bytes() == whole.front_file.read_bytes()


def test_the_command_to_resume_names_the_data() -> None:
    command = resume_command(tiny(data="/my data"), Path("runs/x"))
    assert command == "palora train multimnist-small --out runs/x --data '/my data' --resume"


@pytest.mark.needs("moocore")
def test_control_must_be_a_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--out", "front"]) == 0
    assert main([*RUN[:-2], "--method", "stl", "--seed", "1", "--out", "point"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "front", "--control", "point"]) == 0
    printed = capsys.readouterr().out
    assert "control stl" in printed
    delta = next(line for line in printed.splitlines() if line.startswith("Δm against stl"))
    fixed = json.loads(Path("front/front.json").read_text())["summary"]["fixed_rays"]
    alone = {name: values[0] for name, values in json.loads(Path("point/front.json").read_text())["metrics"].items()}
    for name, label in (("left", "all on left"), ("right", "all on right"), ("centre", "centre")):
        change = [100 * (alone[key] - fixed[name][key]) / alone[key] for key in alone]  # accuracies: less is a loss
        assert f"{label} {sum(change) / len(change):+.2f} %" in delta
    assert "holds a front of 11 rays" in failure(capsys, "evaluate", "point", "--control", "front")
    assert "nothing is not a run folder" in failure(capsys, "evaluate", "point", "--control", "nothing")
    Path("point/front.json").unlink()
    assert "run `palora evaluate point` first" in failure(capsys, "evaluate", "front", "--control", "point")


@pytest.mark.needs("moocore")
def test_ctrl_c_leaves_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    """A process of its own, stopped by the signal that a terminal sends."""
    words = [
        "train",
        "multimnist-small",
        "--epochs",
        "500",
        "--batch",
        "16",
        "--limit",
        "32",
        "--rays",
        "1",
        "--out",
        "run",
    ]
    program = "import sys; from palora.cli import main; sys.exit(main())"
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    error = child.communicate(timeout=60)[1]
    assert child.returncode == 130, error
    assert error.count("\n") == 1
    assert "Go on with: palora train multimnist-small --out run --resume" in error
    assert read_metrics(tmp_path / "run")[-1]["epoch"] < 500
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()
