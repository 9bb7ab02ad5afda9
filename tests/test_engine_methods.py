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
from test_engine_resume import assert_same_run

import palora.data
from palora import methods
from palora.cli import main, results
from palora.engine import Interrupted, RunFolder, train
from palora.engine.config import RunConfig
from palora.errors import PaloraError

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


def needs_what_is_missing(name: str) -> bool:
    try:
        methods.build(name, 2)
    except PaloraError:
        return True
    return False


@pytest.mark.parametrize("words", [*([name] for name in methods.names()), *VARIANTS], ids=" ".join)
def test_trains_and_resumes(words: list[str], tmp_path: Path) -> None:
    if needs_what_is_missing(words[0]):
        pytest.skip("the extra `methods` is not installed")
    whole = start(tmp_path / "whole", *words)
    config = RunConfig.read(whole.config_file)

    def stop() -> Any:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", show=At(2, stop))
    torch.manual_seed(999)  # the resumed run must not depend on what was drawn here
    assert_same_run(train(config, tmp_path / "run", resume=True), whole)
