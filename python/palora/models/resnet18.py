"""ResNet-18 without its last layer, for the faces of UTKFace."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from palora.models.base import MultiTaskModel, positive, positives

_WIDTHS = (64, 128, 256, 512)
_SHRINKAGE = 32  # three stages of stride 2, then an average over 4 × 4


class ResNet18(MultiTaskModel):
    """CIFAR stem (3 × 3, stride 1, no pooling) and eight residual blocks, shared; one linear head per task.

    Input (n, in_channels, image_size, image_size); output: one tensor (n, outputs[t]) per task, raw.
    The 4 × 4 average pooling leaves 2 × 2 positions at 64 × 64 pixels, so that the heads read 2048 features.
    UTKFace: `ResNet18((1, 2, 5))`, 11,185,224 parameters.

    Args:
        outputs: outputs of each task.
        in_channels: channels of an image.
        image_size: side of the square images; it sets how many features the heads read.
    """

    def __init__(self, outputs: Sequence[int], in_channels: int = 3, image_size: int = 64) -> None:
        widths = positives("outputs", outputs)
        if positive("image_size", image_size) % _SHRINKAGE != 0:
            raise ValueError(f"`image_size` should be a multiple of {_SHRINKAGE}. Found {image_size}.")
        features = _WIDTHS[-1] * (image_size // _SHRINKAGE) ** 2
        heads = [nn.Linear(features, width) for width in widths]
        super().__init__(_trunk(positive("in_channels", in_channels)), heads)

    @property
    def last_shared_layer(self) -> nn.Module:
        return self.trunk.get_submodule("layer4")


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions added to a shortcut: (n, before, h, w) → (n, after, ⌈h/stride⌉, ⌈w/stride⌉)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = _shortcut(before, after, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


def _shortcut(before: int, after: int, stride: int) -> nn.Module:
    if stride == 1 and before == after:
        return nn.Identity()
    conv = nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(after)))


def _trunk(in_channels: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, _WIDTHS[0], kernel_size=3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(_WIDTHS[0]),
        relu=nn.ReLU(),
    )
    before = _WIDTHS[0]
    for i, after in enumerate(_WIDTHS, start=1):
        first = BasicBlock(before, after, stride=1 if i == 1 else 2)
        layers[f"layer{i}"] = nn.Sequential(first, BasicBlock(after, after, stride=1))
        before = after
    layers["pool"] = nn.AvgPool2d(4)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)
