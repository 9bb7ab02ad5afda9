"""Adapted models under DistributedDataParallel: rays stay with their process, gradients are averaged."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import palora
from palora.layers import adapter_parameters

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")


_SECONDS = 120


def _model() -> nn.Module:
    torch.manual_seed(0)
    model = palora.adapt(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double(), 2, 2)
    for parameter in adapter_parameters(model):
        nn.init.normal_(parameter, std=0.3)
    return model


def _batch(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank + 1)
    x = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    return x, torch.rand(3, 2, dtype=torch.float64, generator=generator)


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=_SECONDS / 2)
    )
    model = DistributedDataParallel(_model())
    x, rays = _batch(rank)
    with palora.at(model, rays):
        loss = model(x).pow(2).sum()
    loss.backward()
    torch.save((loss.item(), [p.grad for p in model.parameters()]), f"{folder}/{rank}.pt")
    dist.barrier()  # nobody closes connections that the other still reads
    dist.destroy_process_group()


def _spawn(folder: Path) -> None:
    """Two processes, which are killed if they take too long."""
    context = mp.spawn(_work, (str(folder),), nprocs=2, join=False)
    end = time.monotonic() + _SECONDS
    try:
        while not context.join(timeout=max(end - time.monotonic(), 0.1)):
            if time.monotonic() > end:
                written = sorted(file.name for file in folder.iterdir())
                pytest.fail(f"The processes did not end within {_SECONDS} seconds; they wrote {written}.")
    finally:
        for process in context.processes:
            process.kill()


def test_two_processes_at_different_rays_average_their_gradients(tmp_path: Path) -> None:
    _spawn(tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    losses, gradients = [], []
    for rank in range(2):
        model = _model()
        x, rays = _batch(rank)
        with palora.at(model, rays):
            loss = model(x).pow(2).sum()
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad for p in model.parameters()])
    for rank, (loss, grads) in enumerate(results):
        assert loss == pytest.approx(losses[rank])
        for got, a, b in zip(grads, *gradients, strict=True):
            torch.testing.assert_close(got, (a + b) / 2)
