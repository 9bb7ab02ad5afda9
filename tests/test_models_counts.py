"""Parameter counts of the published networks and of their adapters, to the digit."""

from __future__ import annotations

import pytest
from torch import nn

from palora.layers import adapt, adapter_parameters
from palora.models import MLP, LeNet, ResNet18, SegNet

# network, rank, tasks, parameters, adapters (loralib form), per cent: loralib, matricised where published
NETWORKS = {
    "MultiMNIST": (lambda: LeNet(tasks=2), 1, 2, 27_450, 3_430, 12.495, 7.25),
    "MultiMNIST-3": (lambda: LeNet(tasks=3), 1, 3, 30_510, 5_625, 18.44, None),
    "SARCOS": (lambda: MLP(21, (256, 256, 256), (1,) * 7), 4, 7, 139_015, 86_800, 62.44, 62.44),
    "Census": (lambda: MLP(468, (256,), (2, 2)), 1, 2, 121_092, 2_480, 2.05, 2.05),
    "UTKFace": (lambda: ResNet18((1, 2, 5)), 4, 3, 11_185_224, 878_244, 7.85, None),
    "CityScapes": (lambda: SegNet((7, 1)), 4, 2, 25_017_672, 1_047_320, 4.186, 2.32),
    "NYUv2": (lambda: SegNet((13, 1, 3)), 4, 3, 25_055_185, 1_585_680, 6.329, 3.51),
}


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def adapters_by_formula(model: nn.Module, tasks: int, rank: int, form: str) -> int:
    """Adapter parameters of every Conv2d and Linear, from the layer shapes alone."""
    total = 0
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            area = layer.kernel_size[0] * layer.kernel_size[1]
            if form == "loralib":
                total += area * (layer.in_channels + layer.out_channels)
            else:
                total += layer.out_channels + layer.in_channels * area
        elif isinstance(layer, nn.Linear):
            total += layer.in_features + layer.out_features
    return tasks * rank * total


def same_as_printed(value: float, printed: float) -> bool:
    """Equal to a printed number within one unit of its last digit."""
    digits = len(str(printed).split(".")[1])
    return abs(value - printed) < 10**-digits


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_of_network_and_adapters_are_the_published_ones(name: str) -> None:
    make, rank, tasks, base, loralib, overhead, overhead_matricised = NETWORKS[name]
    model = make()
    assert count(model.parameters()) == base
    assert len(model.heads) == tasks
    assert adapters_by_formula(model, tasks, rank, "loralib") == loralib
    assert same_as_printed(100 * loralib / base, overhead)
    if overhead_matricised is not None:
        matricised = adapters_by_formula(model, tasks, rank, "matricised")
        assert same_as_printed(100 * matricised / base, overhead_matricised)


@pytest.mark.parametrize("form", ["loralib", "matricised"])
@pytest.mark.parametrize("name", NETWORKS)
def test_adapt_adds_as_many_parameters_as_the_formula(name: str, form: str) -> None:
    make, rank, tasks, base, loralib, _, _ = NETWORKS[name]
    model = make()
    expected = loralib if form == "loralib" else adapters_by_formula(model, tasks, rank, "matricised")
    adapt(model, tasks=tasks, rank=rank, form=form)
    assert count(adapter_parameters(model)) == expected
    assert count(model.parameters()) == base + expected


@pytest.mark.parametrize("name", NETWORKS)
def test_shared_and_task_parameters_partition_the_adapted_model(name: str) -> None:
    make, rank, tasks, _, _, _, _ = NETWORKS[name]
    model = adapt(make(), tasks=tasks, rank=rank)
    groups = [model.shared_parameters(), *(model.task_parameters(t) for t in range(tasks))]
    listed = [id(p) for group in groups for p in group]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters()}
