"""`palora ablate`: the grid, what is kept, what goes on, and the table."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
from engine_runs import small_set

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

import palora.data
from palora.cli import main
from palora.engine import ablate, read_metrics
from palora.engine.progress import Plain
from palora.report.ablation import ablation_figure

FLAGS = ["--epochs", "1", "--batch", "16", "--limit", "32", "--device", "cpu"]  # 2 steps a run
GRID = ["--set", "rank=1,2", "--set", "rays=3", "--seeds", "0,1"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(folder below the ablation, whether it was resumed) of every call of `train`."""
    calls: list[tuple[str, bool]] = []
    original = ablate.train

    def recording(config: Any, folder: Path, resume: bool = False, show: Any = None) -> Any:
        calls.append(("/".join(folder.parts[-2:]), resume))
        return original(config, folder, resume=resume, show=show)

    monkeypatch.setattr(ablate, "train", recording)
    return calls


def run(out: Path, *words: str) -> int:
    return main(["ablate", "multimnist-small", *FLAGS, *(words or GRID), "--out", str(out)])


@pytest.mark.needs("moocore")
def test_grid_table_and_files(
    tmp_path: Path, trained: list[tuple[str, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    folders = [f"rank={rank},rays=3/seed{seed}" for rank in (1, 2) for seed in (0, 1)]
    assert trained == [(folder, False) for folder in folders]
    content = json.loads((tmp_path / "ablation.json").read_text())
    assert [(r["settings"], r["seed"]) for r in content["runs"]] == [
        ({"rank": rank, "rays": 3}, seed) for rank in (1, 2) for seed in (0, 1)
    ]
    for folder, found in zip(folders, content["runs"], strict=True):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert config["method_options"]["rank"] == found["settings"]["rank"]
        assert config["seed"] == found["seed"]
        front = json.loads((tmp_path / folder / "front.json").read_text())["summary"]
        assert front["split"] == "validation"
        assert found["hypervolume_accuracies"] == front["hypervolume"]["accuracies"]
        assert found["nondominated"] == front["nondominated"]["count"]
    with (tmp_path / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [r["hypervolume_accuracies"] for r in content["runs"]]
    for i, row in enumerate(rows):
        pair = values[2 * i : 2 * i + 2]
        assert (row["rank"], row["rays"], row["runs"], row["failed"]) == (str(i + 1), "3", "2", "0")
        assert float(row["hypervolume_accuracies"]) == pytest.approx(statistics.mean(pair))
        assert float(row["hypervolume_accuracies_std"]) == pytest.approx(statistics.stdev(pair))
    best = max(rows, key=lambda row: float(row["hypervolume_accuracies"]))
    assert content["best"] == {"rank": int(best["rank"]), "rays": 3}
    assert (tmp_path / "ablation.png").stat().st_size > 10_000
    assert (tmp_path / "ablation-fronts.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "run 4 of 4: rank 2, rays 3, seed 1" in out
    assert out.count(" best") >= 1

    # Again: nothing is trained, the numbers stay; another seed: only that one is.
    del trained[:]
    before = (tmp_path / "ablation.json").read_bytes()
    assert run(tmp_path) == 0
    assert trained == []
    assert (tmp_path / "ablation.json").read_bytes() == before
    assert run(tmp_path, *GRID[:-1], "0,1,7") == 0
    assert trained == [("rank=1,rays=3/seed7", False), ("rank=2,rays=3/seed7", False)]

    # What was trained otherwise is not taken for this.
    assert run(tmp_path, *GRID, "--lr", "0.5") == 1
    assert "was started with lr = 0.001, not 0.5" in capsys.readouterr().err


@pytest.mark.needs("moocore")
def test_an_interrupted_run_goes_on(
    tmp_path: Path,
    trained: list[tuple[str, bool]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = iter(range(100))

    def step(self: Plain, *args: Any) -> None:
        if next(steps) == 2:  # the first step of the second run
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Plain, "step", step)
        assert run(tmp_path) == 130
    assert "The same command goes on: 1 of 4 runs are done" in capsys.readouterr().err
    assert run(tmp_path) == 0
    assert trained[:3] == [
        ("rank=1,rays=3/seed0", False),
        ("rank=1,rays=3/seed1", False),
        ("rank=1,rays=3/seed1", True),
    ]
    assert [line["kind"] for line in read_metrics(tmp_path / "rank=1,rays=3" / "seed1")] == ["epoch"]


@pytest.mark.needs("moocore")
def test_a_run_that_diverges_does_not_end_the_ablation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--set", "lr=0.001,1e30", "--seeds", "0") == 0
    content = json.loads((tmp_path / "ablation.json").read_text())
    assert [row["failed"] for row in content["rows"]] == [[], [0]]
    assert content["best"] == {"lr": 0.001}
    assert content["rows"][1]["hypervolume_losses"] is None
    assert "1 failed" in capsys.readouterr().out


@pytest.mark.needs("moocore")
def test_settings_of_another_method_and_of_single_points(tmp_path: Path) -> None:
    assert run(tmp_path, "--method", "cagrad", "--set", "c=0.2", "--seeds", "0") == 0
    (row,) = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert row["settings"] == {"c": 0.2}
    assert row["nondominated"] == 1
    assert row["spearman"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "ls", "--set", "rank=1"], "There is no setting 'rank'"),
        (["--set", "rank=1", "--set", "rank=2"], "--set rank is given twice"),
        (["--set", "rank=1,1"], "--set rank names a value twice"),
        (["--set", "lr=0.1", "--lr", "0.2"], "`lr` is varied by --set and fixed by --lr"),
        (["--seeds", "0;1"], "--seeds should look like 0,1,2"),
        (["--split", "train"], "--split should be validation or test"),
        pytest.param(["--set", "rank=0"], "`rank`", marks=pytest.mark.needs("moocore")),  # found by the first run
    ],
)
def test_wrong_words_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", *words) == 1
    assert message in capsys.readouterr().err


def test_settings_keep_their_types() -> None:
    from palora.cli.settings import read_settings

    types = {"rank": int, "alpha": float, "schedule": str, "freeze_base": bool, "weighting": str}
    words = ["rank=1,2", "alpha=1,none", "schedule=fixed", "freeze-base=yes,no", "weighting=[1,0;0,1]"]
    assert read_settings(words, types) == {
        "rank": [1, 2],
        "alpha": [1.0, None],
        "schedule": ["fixed"],
        "freeze_base": [True, False],
        "weighting": ["1,0;0,1"],
    }


def test_figure_of_one_setting_and_of_none_that_worked() -> None:
    runs = [
        {
            "settings": {},
            "seed": seed,
            "hypervolume_losses": 0.5,
            "hypervolume_accuracies": None,
            "nondominated": 3,
            "spearman": None,
        }
        for seed in (0, 1)
    ]
    assert len(ablation_figure(runs).axes) == 4
    with pytest.raises(ValueError, match="did not fail"):
        ablation_figure([{"settings": {}, "seed": 0, "failed": "why"}])
