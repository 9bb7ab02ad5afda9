"""The configuration in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_runs import tiny

from palora.engine import RunConfig
from palora.errors import PaloraError


def test_configuration_checks_its_values() -> None:
    for name, value in {"epochs": 0, "batch": 0, "limit": 0, "ray_chunk": -1, "lr": 0.0, "seed": -1}.items():
        with pytest.raises(ValueError, match=f"`{name}` should .*Found {value}"):
            tiny(**{name: value})
    with pytest.raises(ValueError, match=r"`precision` should be fp32 or bf16\. Found 'fp16'"):
        tiny(precision="fp16")


def test_configuration_survives_json(tmp_path: Path) -> None:
    config = tiny(lr_milestones=(3, 5), reference=(1.0, 2.0))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    assert RunConfig.read(path) == config
    path.write_text("{")
    with pytest.raises(PaloraError, match=r"config\.json is damaged"):
        RunConfig.read(path)
    path.write_text(json.dumps({**config.to_dict(), "rubbish": 1}))
    with pytest.raises(PaloraError, match="does not know the settings rubbish"):
        RunConfig.read(path)
