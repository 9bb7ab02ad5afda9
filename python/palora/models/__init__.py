"""The networks of the papers' experiments: a shared trunk and one head per task."""

from palora.models.base import MultiTaskModel
from palora.models.lenet import LeNet
from palora.models.mlp import MLP
from palora.models.registry import build, names
from palora.models.resnet18 import ResNet18
from palora.models.resnet20 import ResNet20
from palora.models.segnet import SegNet

__all__ = ["MLP", "LeNet", "MultiTaskModel", "ResNet18", "ResNet20", "SegNet", "build", "names"]
