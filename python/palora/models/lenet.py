"""LeNet for MultiMNIST: the small network of both papers' digit experiments."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

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


def _trunk(in_channels: int) -> nn.Sequential:
    """(n, in_channels, 28, 28) → (n, 50). ReLU follows the pooling: same values, a quarter of the work."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 10, kernel_size=5),
            pool1=nn.MaxPool2d(2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(10, 20, kernel_size=5),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(20 * 4 * 4, _EMBEDDING),
            relu3=nn.ReLU(),
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
