"""SegNet with shared encoder and decoder, for the dense tasks of CityScapes and NYUv2."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from palora.models.base import MultiTaskModel, positive, positives

# (width, number of 3 × 3 convolutions) of each encoder stage: the convolutions of VGG-16.
# The decoder mirrors it: stage i hands stage i−1 the width that it expects.
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class SegNet(MultiTaskModel):
    """Encoder and decoder of five stages each, joined by the pooling indices; two convolutions per task.

    Input (n, in_channels, H, W) with H, W ≥ 32; output: one map (n, outputs[t], H, W) per task, raw.
    Segmentation scores come before the softmax, for cross-entropy (the authors' code has a log-softmax in the
    model and takes the negative log-likelihood outside: the same value).
    CityScapes: `SegNet((7, 1))`, 25,017,672 parameters.
    NYUv2: `SegNet((13, 1, 3), unit_length=(2,))`, 25,055,185.

    Args:
        outputs: channels of each task's map.
        in_channels: channels of an image.
        unit_length: tasks whose output is scaled to Euclidean length 1 in every pixel: surface normals.
    """

    def __init__(self, outputs: Sequence[int], in_channels: int = 3, unit_length: Sequence[int] = ()) -> None:
        widths = positives("outputs", outputs)
        unknown = [t for t in unit_length if t not in range(len(widths))]
        if unknown:
            raise ValueError(f"`unit_length` should hold tasks between 0 and {len(widths) - 1}. Found {unknown[0]!r}.")
        heads = [_head(width, unit=t in unit_length) for t, width in enumerate(widths)]
        super().__init__(SegNetTrunk(positive("in_channels", in_channels)), heads)
        self.apply(_initialise)

    def reset_parameters(self) -> None:
        """Start anew, as a fresh model does."""
        for module in self.modules():
            reset: Any = None if module is self else getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        self.apply(_initialise)

    @property
    def last_shared_layer(self) -> nn.Module:
        return self.trunk.get_submodule("decoder.stage1.blocks")[-1]  # type: ignore[index]


class SegNetTrunk(nn.Module):
    """(n, in_channels, H, W) → (n, 64, H, W)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.encoder = Encoder(in_channels)
        self.decoder = Decoder()

    def forward(self, x: Tensor) -> Tensor:
        features, indices, sizes = self.encoder(x)
        return self.decoder(features, *indices, sizes=sizes)


class Encoder(nn.Module):
    """Five stages of convolutions, each halving height and width and remembering where its maxima were."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        before = in_channels
        for i, (width, depth) in enumerate(_STAGES, start=1):
            self.add_module(f"stage{i}", EncoderStage([before] + [width] * depth))
            before = width

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[tuple[int, int]]]:
        indices, sizes = [], []
        for stage in self.children():
            x, index, size = stage(x)
            indices.append(index)
            sizes.append(size)
        return x, indices, sizes


class Decoder(nn.Module):
    """The encoder backwards: put each value where the maximum was, then convolve.

    The indices are positional tensors (first stage first): where the decoder is an expansion point of
    `palora.adapt`, they are repeated for every ray beside the features.
    """

    def __init__(self) -> None:
        super().__init__()
        for i in range(len(_STAGES), 0, -1):
            width, depth = _STAGES[i - 1]
            after = _STAGES[max(i - 2, 0)][0]
            self.add_module(f"stage{i}", DecoderStage([width] + [after] * depth))

    def forward(self, x: Tensor, *indices: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        for stage, index, size in zip(self.children(), reversed(indices), reversed(sizes), strict=True):
            x = stage(x, index, size)
        return x


class EncoderStage(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.blocks = _blocks(widths)
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        x = self.blocks(x)
        pooled, index = self.pool(x)
        return pooled, index, (x.shape[-2], x.shape[-1])


class DecoderStage(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.unpool = nn.MaxUnpool2d(2)
        self.blocks = _blocks(widths)

    def forward(self, x: Tensor, index: Tensor, size: tuple[int, int]) -> Tensor:
        # The size is given, not doubled: an odd height or width loses its last row in the pooling.
        return self.blocks(self.unpool(x, index, output_size=size))


class UnitLength(nn.Module):
    """Scale the channel vector of every pixel to Euclidean length 1 (a zero vector stays zero, not NaN)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


def _blocks(widths: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(_block(*pair) for pair in pairwise(widths)))


def _block(before: int, after: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel_size=3, padding=1)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(after), relu=nn.ReLU()))


def _head(width: int, unit: bool) -> nn.Sequential:
    """(n, 64, H, W) → (n, width, H, W); no activation between the two convolutions, as in the reference."""
    features = _STAGES[0][0]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(features, features, kernel_size=3, padding=1),
        conv2=nn.Conv2d(features, width, kernel_size=1),
    )
    if unit:
        layers["unit"] = UnitLength()
    return nn.Sequential(layers)


def _initialise(module: nn.Module) -> None:
    """Xavier-normal kernels and zero biases, as the published experiments start."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
