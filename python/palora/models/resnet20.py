"""ResNet-20 for CIFAR, as trunk: the small residual network whose trained weights are easy to come by."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palora.errors import PaloraError
from palora.models.base import MultiTaskModel, positives
from palora.reading import open_archive
from palora_kernels.reading import require_file

_WIDTHS = (16, 32, 64)


class ResNet20(MultiTaskModel):
    """Nine residual blocks without parameters in their shortcuts, shared; one linear head on 64 features per task.

    Input (n, 3, H, W) of any size; output: one tensor (n, outputs[t]) per task, raw. He et al. (2016), Sec. 4.2, option
    A: a shortcut takes every second row and column, new channels are zero. 269,072 parameters in the trunk, 269,722
    with the ten classes of CIFAR-10.

    Args:
        outputs: outputs of each task.
    """

    def __init__(self, outputs: Sequence[int]) -> None:
        heads = [nn.Linear(_WIDTHS[-1], width) for width in positives("outputs", outputs)]
        super().__init__(_trunk(), heads)

    @property
    def last_shared_layer(self) -> nn.Module:
        return self.trunk.get_submodule("layer3")

    def load_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Read the trunk's weights from a checkpoint with the names of `pytorch_resnet_cifar10`; heads stay.

        A dictionary of tensors, or one under "state_dict", with or without "module." before the names; the checkpoint's
        own last layer (linear.*) is left out. Raises PaloraError if it is not that.
        """
        try:
            require_file(path)
            if zipfile.is_zipfile(path):
                open_archive(Path(path), 2**32, stored=True).close()
            content = torch.load(Path(path), map_location="cpu", weights_only=True)
            state = content.get("state_dict", content)
            named = {name.removeprefix("module."): value for name, value in state.items()}
            self.trunk.load_state_dict({n: v for n, v in named.items() if not n.startswith("linear.")})
        except Exception as error:  # torch.load raises many kinds on what is not a checkpoint
            reason = str(error).split("\n")[0].rstrip(".: ")
            raise PaloraError(f"{path} does not hold the weights of a CIFAR ResNet-20 ({reason}).") from error


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions added to the input: (n, before, h, w) → (n, after, ⌈h/stride⌉, ⌈w/stride⌉)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, after - before
        self.conv1 = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            x = F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return torch.relu(y + x)


def _trunk() -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, _WIDTHS[0], kernel_size=3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(_WIDTHS[0]),
        relu=nn.ReLU(),
    )
    before = _WIDTHS[0]
    for i, after in enumerate(_WIDTHS, start=1):
        strides = (1 if i == 1 else 2, 1, 1)
        blocks = [BasicBlock(before if j == 0 else after, after, stride) for j, stride in enumerate(strides)]
        layers[f"layer{i}"] = nn.Sequential(*blocks)
        before = after
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)
