"""Every method trains through the command line without a warning, and resumes bit for bit."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import At, small_set
from method_cases import case
from test_engine_resume import assert_same_run

pytest.importorskip("typer")

import palora.data
from palora import methods
from palora.cli import main, results
from palora.engine import Interrupted, RunFolder, train
from palora.engine.config import RunConfig

VARIANTS = [
    ["palora", "--balance", "gradient", "--rays", "2"],
    ["palora", "--balance", "gradient-last", "--rays", "2"],
    ["palora", "--balance", "loss", "--rays", "2"],
    ["palora", "--balance", "loss", "--as-released", "--rays", "2"],
    ["palora", "--family", "dora", "--form", "matricised", "--rays", "2"],
    ["pamal", "--window", "3", "--regularisation", "2", "--balance", "gradient"],
    ["pamal", "--members", "3", "--window", "2", "--as-released", "--p", "0.1"],
]


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())
    monkeypatch.setattr(results, "draw", lambda *args: [])


def start(folder: Path, *words: str) -> RunFolder:
    flags = ["--epochs", "1", "--batch", "16", "--limit", "48", "--device", "cpu", "--out", str(folder)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["train", "multimnist-small", *flags, "--method", *words]) == 0
    return RunFolder(folder)


@pytest.mark.needs("moocore", "matplotlib")
@pytest.mark.parametrize(
    "words", [case(words[0], words, " ".join(words)) for words in [*([name] for name in methods.names()), *VARIANTS]]
)
def test_trains_and_resumes(words: list[str], tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", *words)
    config = RunConfig.read(whole.config_file)

    def stop() -> Any:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", show=At(2, stop))
    torch.manual_seed(999)  # the resumed run must not depend on what was drawn here
    assert_same_run(train(config, tmp_path / "run", resume=True), whole)
