"""The README's Python runs from top to bottom, in one process, as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import palora

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


TASKS = ("left", "right")


class Model(nn.Module):
    """Two heads, one a task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.left, self.right = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x).tanh()
        return self.left(h), self.right(h)


def _task_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of a task: (M, n, C) and (n,) -> (M,)."""
    logits = outputs.flatten(0, 1)
    losses = nn.functional.cross_entropy(logits, targets.repeat(len(outputs)), reduction="none")
    return losses.view(len(outputs), -1).mean(1)


def _losses(outputs: Any, targets: Any) -> Tensor:
    each = [nn.functional.cross_entropy(outputs[i], targets[i], reduction="none") for i in range(2)]
    return torch.stack(each, dim=1)


def _metrics(outputs: Any, targets: Any) -> dict[str, Tensor]:
    """As if the model had learned it, so that a ray of the front reaches the bound of `select`."""
    return {f"accuracy/{task}": torch.ones(len(output)) for task, output in zip(TASKS, outputs, strict=True)}


def test_the_snippets_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    batches = [(torch.randn(7, 5), tuple(torch.randint(0, 3, (2, 7)))) for _ in range(2)]
    given: dict[str, Any] = {"model": Model(), "x": batches[0][0], "rays": palora.simplex_grid(2, 4)}
    given |= {"batches": batches, "total_steps": 2, "task_losses": _task_losses, "test_batches": batches}
    given |= {"loss_fn": _losses, "metric_fn": _metrics}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks[:4]:  # the last one is of models with rows of their own
        exec(block, given)
    assert given["report"].ok
    assert (tmp_path / "adapters.safetensors").is_file()
