from __future__ import annotations

import pytest
import torch

from palora.data import Batches, Split, epoch_order

N = 23
SPLIT = Split(torch.arange(N, dtype=torch.float32).unsqueeze(1), (torch.arange(N), torch.arange(N) * 2))


def rows(batches: object) -> list[list[int]]:
    return [targets[0].tolist() for _, targets in batches]  # type: ignore[attr-defined]


def test_an_epoch_sees_every_sample_once_and_keeps_rows_together() -> None:
    seen = []
    for inputs, targets in Batches(SPLIT, 5, seed=3).epoch(2):
        assert isinstance(targets, tuple)
        assert torch.equal(inputs[:, 0].long(), targets[0])
        assert torch.equal(targets[0] * 2, targets[1])
        seen += targets[0].tolist()
    assert sorted(seen) == list(range(N))
    assert seen != sorted(seen)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    batches = Batches(SPLIT, 5, seed=3)
    assert rows(batches.epoch(1)) == rows(Batches(SPLIT, 5, seed=3).epoch(1))
    assert rows(batches) == rows(batches) == rows(batches.epoch(0))
    assert rows(batches.epoch(0)) != rows(batches.epoch(1))
    assert rows(batches.epoch(1)) != rows(Batches(SPLIT, 5, seed=4).epoch(1))
    # Neighbouring (seed, epoch) pairs are streams of their own, not shifts of one another.
    assert epoch_order(1, 0, N).tolist() != epoch_order(0, 1, N).tolist()


def test_the_order_ignores_and_leaves_the_global_random_state() -> None:
    torch.manual_seed(0)
    first, state = epoch_order(5, 6, 100), torch.random.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(epoch_order(5, 6, 100), first)
    torch.manual_seed(0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_order_never_changes_between_releases() -> None:
    assert epoch_order(0, 0, 10).tolist() == [7, 2, 5, 9, 8, 3, 6, 4, 0, 1]


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_an_epoch_can_be_entered_at_any_step(start: int) -> None:
    batches = Batches(SPLIT, 5, seed=3)
    assert rows(batches.epoch(7, start)) == rows(batches.epoch(7))[start:]


def test_lengths_with_and_without_the_last_batch() -> None:
    keep, drop = Batches(SPLIT, 5), Batches(SPLIT, 5, drop_last=True)
    assert (len(keep), len(drop)) == (5, 4)
    assert [len(batch) for batch in rows(keep)] == [5, 5, 5, 5, 3]
    assert [len(batch) for batch in rows(drop)] == [5, 5, 5, 5]
    assert rows(keep)[:4] == rows(drop)
    assert len(Batches(SPLIT, N)) == len(Batches(SPLIT, N, drop_last=True)) == 1


def test_without_shuffling_the_splits_own_order() -> None:
    in_order = rows(Batches(SPLIT, 5, shuffle=False).epoch(9))
    assert [row for batch in in_order for row in batch] == list(range(N))


def test_batches_move_to_the_device() -> None:
    inputs, targets = next(iter(Batches(SPLIT, 5, device="meta")))
    assert {inputs.device.type, targets[0].device.type, targets[1].device.type} == {"meta"}


def test_bad_arguments_are_refused() -> None:
    for size in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="`batch_size`"):
            Batches(SPLIT, size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`drop_last`"):
        Batches(SPLIT, N + 1, drop_last=True)
    with pytest.raises(ValueError, match="`start`"):
        Batches(SPLIT, 5).epoch(0, 6)
    with pytest.raises(ValueError, match="`epoch`"):
        epoch_order(0, -1, 3)
