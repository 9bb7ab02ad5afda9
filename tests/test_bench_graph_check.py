"""What `python -m palora.bench.device.graph_check` asks: on a GPU of real graphs, elsewhere of the stand-in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from graph_stand_in import StandIn

from palora.bench.device import graph_check
from palora.bench.device.graph_check import CASES, PLANTED, apart, check

NAMES = [case.name for case in CASES]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["dropout"])
def test_the_check_finds_no_fault_in_the_stand_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = graph_check.assemble_on
    models: list[torch.nn.Module] = []

    def remembering(*arguments: object) -> object:
        parts = built(*arguments)  # type: ignore[arg-type]
        models.append(parts.model)
        return parts

    monkeypatch.setattr(graph_check, "assemble_on", remembering)
    monkeypatch.setattr(graph_check, "CudaGraph", lambda device: StandIn(models[-1]))
    # Learning rates are tensors on a GPU only; here the epoch's change would be a frozen number.
    monkeypatch.setattr(graph_check, "set_learning_rate", lambda state, config: None)
    found = check(replace(CASES[NAMES.index(name)], batch=6), "cpu", timed=False)
    assert found["repeats"]["same bits"]
    assert found["graph"]["same bits"]
    assert found["resumed"]["same bits"]
    assert f"in step {PLANTED} " in found["diverged"]["said"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_captured_steps_train_as_steps_do(name: str) -> None:
    """To the last bit, where steps themselves repeat to the last bit."""
    found = check(CASES[NAMES.index(name)], "cuda", timed=False)
    assert found["graph"]["relative"] <= 1e-3 or not found["repeats"]["same bits"]
    if found["repeats"]["same bits"]:
        assert found["graph"]["same bits"]
        assert found["resumed"]["same bits"]
    assert f"in step {PLANTED} " in found["diverged"]["said"]


def test_apart() -> None:
    one, other = [torch.ones(2), torch.tensor([4.0, 2.0])], [torch.ones(2), torch.tensor([4.0, 3.0])]
    assert apart(one, one) == {"same bits": True, "relative": 0.0}
    assert apart(one, other) == {"same bits": False, "relative": 0.25}
