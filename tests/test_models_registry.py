"""Names of models, and arguments that cannot be."""

from __future__ import annotations

import pytest

from palora import models
from palora.errors import PaloraError


def test_build_makes_the_model_of_that_name() -> None:
    model = models.build("mlp", inputs=3, hidden=(4,), outputs=(1, 2))
    assert isinstance(model, models.MLP)
    assert [head.out_features for head in model.heads] == [1, 2]


def test_names_are_those_of_the_public_classes() -> None:
    assert models.names() == ["lenet", "mlp", "resnet18", "resnet20", "segnet"]
    classes = [type(models.build("lenet")), type(models.build("resnet18", outputs=(1,)))]
    assert classes == [models.LeNet, models.ResNet18]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PaloraError, match=r"'lenet5'.*Did you mean lenet.*lenet, mlp, resnet18, resnet20, segnet"):
        models.build("lenet5")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.LeNet(tasks=0), r"`tasks` should be an integer >= 1. Found 0."),
        (lambda: models.LeNet(tasks=True), r"`tasks`"),
        (lambda: models.LeNet(classes=2.5), r"`classes` should be an integer >= 1. Found 2.5."),
        (lambda: models.MLP(3, (), (1,)), r"`hidden` should be a non-empty sequence"),
        (lambda: models.MLP(3, (4, 0), (1,)), r"`hidden\[1\]` should be an integer >= 1. Found 0."),
        (lambda: models.ResNet18(3), r"`outputs` should be a non-empty sequence"),
        (lambda: models.ResNet18((1,), image_size=48), r"`image_size` should be a multiple of 32. Found 48."),
        (lambda: models.SegNet("71"), r"`outputs`"),
        (lambda: models.SegNet((7, 1), unit_length=(2,)), r"`unit_length` should hold tasks between 0 and 1"),
    ],
)
def test_arguments_that_cannot_be_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_no_such_task_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        models.LeNet(2).task_parameters(2)
