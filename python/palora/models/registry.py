"""Name → model. A new model is one file here and one line below."""

from __future__ import annotations

from typing import Any

from palora.errors import PaloraError
from palora.models.base import MultiTaskModel
from palora.models.lenet import LeNet
from palora.models.mlp import MLP
from palora.models.resnet18 import ResNet18
from palora.models.resnet20 import ResNet20
from palora.models.segnet import SegNet
from palora.suggest import unknown

MODELS: dict[str, type[MultiTaskModel]] = {
    "lenet": LeNet,
    "mlp": MLP,
    "resnet18": ResNet18,
    "resnet20": ResNet20,
    "segnet": SegNet,
}


def names() -> list[str]:
    """The names of all models."""
    return list(MODELS)


def build(name: str, **options: Any) -> MultiTaskModel:
    """Make the model called `name`; `options` are the arguments of its class.

    Raises PaloraError if no model has that name.
    """
    if name not in MODELS:
        raise PaloraError(unknown("model", name, MODELS))
    return MODELS[name](**options)
