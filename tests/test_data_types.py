from __future__ import annotations

import pytest
import torch

from palora.data import Dataset, Split, TaskSpec

TASK = TaskSpec("left", loss="cross_entropy", metric="accuracy", outputs=3)


def split(labels: list[int]) -> Split:
    return Split(torch.zeros(len(labels), 2), (torch.tensor(labels),))


def test_split_knows_its_length_and_takes_a_prefix() -> None:
    part = split([0, 1, 2, 1]).take(2)
    assert len(part) == 2
    assert part.targets[0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="`count`"):
        part.take(3)


@pytest.mark.parametrize(
    "inputs, targets, error",
    [
        (torch.zeros(3, dtype=torch.uint8), (torch.zeros(3),), TypeError),
        (torch.zeros(3), [torch.zeros(3)], TypeError),
        (torch.zeros(3), (), TypeError),
        (torch.zeros(3), (torch.zeros(2),), ValueError),
        (torch.zeros(3), (torch.zeros(3), 1), ValueError),
    ],
)
def test_split_refuses_what_is_not_one_row_per_sample(inputs: object, targets: object, error: type) -> None:
    with pytest.raises(error, match=r"`(inputs|targets)"):
        Split(inputs, targets)  # type: ignore[arg-type]


def test_dataset_refuses_labels_out_of_range_and_missing_tasks() -> None:
    good = split([0, 1, 2])
    Dataset("x", good, good, split([-1, 2]), (TASK,), "")
    with pytest.raises(ValueError, match=r"`test`.*left.*0 … 2.*3"):
        Dataset("x", good, good, split([0, 3]), (TASK,), "")
    with pytest.raises(ValueError, match="one target per task"):
        Dataset("x", good, good, good, (TASK, TASK), "")
    floats = Split(torch.zeros(2, 2), (torch.zeros(2),))
    with pytest.raises(TypeError, match="int64"):
        Dataset("x", floats, good, good, (TASK,), "")


@pytest.mark.parametrize("fields", [{"name": ""}, {"loss": ""}, {"metric": 3}, {"outputs": 0}])
def test_task_refuses_empty_fields(fields: dict[str, object]) -> None:
    whole = {"name": "a", "loss": "mse", "metric": "rmse", "outputs": 1}
    with pytest.raises(ValueError, match=next(iter(fields))):
        TaskSpec(**{**whole, **fields})  # type: ignore[arg-type]
