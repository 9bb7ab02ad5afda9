"""Every method lowers the losses it was asked to lower."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from engine_runs import small_set
from method_cases import every_method

from palora import methods
from palora.engine.chunking import accumulate
from palora.models import LeNet


@pytest.mark.needs("PIL")
@pytest.mark.parametrize("name", every_method())
def test_training_lowers_the_losses(name: str) -> None:
    """Twenty steps on one batch lower the mean of the losses at the centre."""
    torch.manual_seed(0)
    options = {"meta_lr": 1e-2} if name == "autolambda" else {}
    method = methods.build(name, 2, options)
    split = small_set().train
    inputs, targets = split.inputs[:32], [target[:32] for target in split.targets]
    model = method.adapt(LeNet())
    optimiser = torch.optim.Adam(method.parameter_groups(model, 3e-3))
    centre = torch.full((1, 2), 0.5)

    def losses(rays: torch.Tensor) -> torch.Tensor:
        outputs = method.forward(model, inputs, rays)
        rows = [
            torch.stack([F.cross_entropy(one, target) for one in output])
            for output, target in zip(outputs, targets, strict=True)
        ]
        return torch.stack(rows, dim=1)

    before = losses(centre).mean().item()
    for step in range(20):
        rays = method.rays((step + 1) / 20)
        optimiser.zero_grad()
        seen = accumulate(method, model, losses, rays)
        optimiser.step()
        method.after_step(seen, rays)
    assert losses(centre).mean().item() < before - 0.05
