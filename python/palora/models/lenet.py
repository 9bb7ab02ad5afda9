"""LeNet for MultiMNIST: the small network of both papers' digit experiments."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

import palora_kernels
from palora.models.base import MultiTaskModel, positive

_EMBEDDING = 50


class LeNet(MultiTaskModel):
    """Two convolutions and a linear layer, shared; two linear layers per task.

    Input (n, in_channels, 28, 28); output: `tasks` tensors (n, classes) of class scores before the softmax.
    27,450 parameters for 2 tasks, 30,510 for 3 (one input channel, 10 classes).
    """

    def __init__(self, tasks: int = 2, in_channels: int = 1, classes: int = 10) -> None:
        positive("tasks", tasks)
        trunk = _trunk(positive("in_channels", in_channels))
        heads = [_head(positive("classes", classes)) for _ in range(tasks)]
        super().__init__(trunk, heads)

    @property
    def last_shared_layer(self) -> nn.Module:
        return self.trunk.get_submodule("fc")


class PoolReLU(nn.Module):
    """2 × 2 max-pooling, then ReLU: the values of the usual order, a quarter of the work."""

    def forward(self, x: Tensor) -> Tensor:
        return palora_kernels.max_pool_relu(x)


def _trunk(in_channels: int) -> nn.Sequential:
    """(n, in_channels, 28, 28) → (n, 50)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 10, kernel_size=5),
            pool1=PoolReLU(),
            conv2=nn.Conv2d(10, 20, kernel_size=5),
            pool2=PoolReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(20 * 4 * 4, _EMBEDDING),
            relu=nn.ReLU(),
        )
    )


def _head(classes: int) -> nn.Sequential:
    """(n, 50) → (n, classes)."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(_EMBEDDING, _EMBEDDING),
            relu=nn.ReLU(),
            fc2=nn.Linear(_EMBEDDING, classes),
        )
    )
