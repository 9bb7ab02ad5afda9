"""Losses and metrics by name, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from palora.data import TaskSpec
from palora.engine.losses import loss_fn, metric_fn
from palora.errors import PaloraError


def test_losses_against_torch() -> None:
    x, y = torch.randn(5, 3), torch.randn(5, 3)
    labels = torch.tensor([0, 2, 1, 1, 0])
    tasks = [
        TaskSpec("a", "mse", "mae", 3),
        TaskSpec("b", "huber", "mse", 1),
        TaskSpec("c", "cross_entropy", "accuracy", 3),
    ]
    losses = loss_fn(tasks)([x, x[:, :1], x], [y, y[:, 0], labels])
    assert losses.shape == (5, 3)
    functional = nn.functional
    expected = [
        functional.mse_loss(x, y),
        functional.huber_loss(x[:, 0], y[:, 0]),
        functional.cross_entropy(x, labels),
    ]
    torch.testing.assert_close(losses.mean(0), torch.stack(expected))
    metrics = metric_fn(tasks)([x, x[:, :1], x], [y, y[:, 0], labels])
    assert list(metrics) == ["mae/a", "mse/b", "accuracy/c"]
    assert metrics["accuracy/c"].tolist() == [float(a == b) for a, b in zip(x.argmax(1), labels, strict=True)]
    torch.testing.assert_close(metrics["mae/a"].mean(), (x - y).abs().mean())
    with pytest.raises(PaloraError, match=r"no loss 'hubber'\. Did you mean huber"):
        loss_fn([TaskSpec("a", "hubber", "mse", 1)])


def test_losses_of_dense_labels_leave_out_what_has_no_label() -> None:
    task = [TaskSpec("segments", "cross_entropy", "accuracy", 3)]
    scores = torch.randn(2, 3, 2, 2)
    labels = torch.tensor([[[0, -1], [2, -1]], [[-1, -1], [-1, -1]]])
    loss: Tensor = loss_fn(task)([scores], [labels])
    logs = scores.log_softmax(1)
    assert loss[0, 0].item() == pytest.approx(-(logs[0, 0, 0, 0] + logs[0, 2, 1, 0]).item() / 2, rel=1e-5)
    assert loss[1, 0] == 0
    hit = (scores[0].argmax(0) == labels[0])[:, 0].float().mean()
    assert metric_fn(task)([scores], [labels])["accuracy/segments"][0] == hit
