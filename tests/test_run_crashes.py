"""A run, or an ablation, that dies at any file operation goes on with the command that the messages name, to the same
bits (crash_points.py is the program that is run here)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

pytestmark = [
    pytest.mark.needs("moocore"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and forks"),
]

TESTS = Path(__file__).parent
SHORT = ["--epochs", "1", "--batch", "16", "--limit", "16", "--device", "cpu"]
TRAIN = ["train", "multimnist-small", "--method", "ls", *SHORT]
ABLATE = ["ablate", "multimnist-small", "--method", "ls", "--seeds", "0,1", *SHORT]


def crashes(folder: Path, death: str, number: int, *words: str) -> dict[str, Any]:
    """What crash_points.py tells."""
    paths = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, str(TESTS / "crash_points.py"), str(folder), death, str(number), *words],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PALORA_BUILD_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("death", ["kill", "full"])
def test_a_training_that_dies_at_a_file_operation_goes_on_as_it_says(death: str, tmp_path: Path) -> None:
    told = crashes(tmp_path, death, 9, *TRAIN)
    assert told["wrong"] == []
    assert told["died"] >= 12


@pytest.mark.slow
@pytest.mark.parametrize("death", ["kill", "full", "stays full"])
@pytest.mark.parametrize("words", [TRAIN, [*TRAIN, "--epochs", "2", "--checkpoint-every", "1"], ABLATE])
def test_at_every_file_operation(death: str, words: list[str], tmp_path: Path) -> None:
    told = crashes(tmp_path, death, 1, *words)
    assert told["wrong"] == []
    assert told["died"] >= 28


@pytest.mark.slow
def test_random_kills_are_resumed_to_the_same_bits(tmp_path: Path) -> None:
    options = "--schedule dirichlet --rays 3 --epochs 3 --batch 16 --limit 96 --checkpoint-every 4 --device cpu"
    told = crashes(tmp_path, "random", 20, "train", "multimnist-small", *options.split())
    assert told == {"died": 20, "wrong": []}
