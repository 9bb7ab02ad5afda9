"""Name → model. A new model is one file here and one line below."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from palora.errors import PaloraError
from palora.models.base import MultiTaskModel
from palora.models.lenet import LeNet
from palora.models.mlp import MLP
from palora.models.resnet18 import ResNet18
from palora.models.resnet20 import ResNet20
from palora.models.segnet import SegNet
from palora.suggest import unknown
from palora_kernels.typed import check_arguments

MODELS: dict[str, type[MultiTaskModel]] = {
    "lenet": LeNet,
    "mlp": MLP,
    "resnet18": ResNet18,
    "resnet20": ResNet20,
    "segnet": SegNet,
}


MOST_WEIGHTS = 2**30


def names() -> list[str]:
    """The names of all models."""
    return list(MODELS)


def build(name: str, **options: Any) -> MultiTaskModel:
    """Make the model called `name`; `options` are the arguments of its class.

    Raises PaloraError if no model has that name, such an option or such a size that this machine could hold it.
    """
    if name not in MODELS:
        raise PaloraError(unknown("model", name, MODELS))
    kind = MODELS[name]
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        raise PaloraError(f"The model '{name}' cannot be made: {error}.") from error
    options = check_arguments(kind.__init__, options)
    with torch.device("meta"):  # shapes alone, and no random numbers
        size = sum(p.numel() for p in kind(**options).parameters())
    if size > MOST_WEIGHTS:
        raise PaloraError(f"The model '{name}' would have {size:,} weights with these options: too many.")
    return kind(**options)
