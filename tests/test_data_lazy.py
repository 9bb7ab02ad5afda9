"""Splits that are read when asked for give the batches of the same samples in memory, with and without workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from palora.data import Batches, Lazy, Split

N = 11
INPUTS, TARGET = torch.randn(N, 2, 3, generator=torch.Generator().manual_seed(1)), torch.arange(N)


def read(index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    return INPUTS[index], (TARGET[index],)


def jitter(x: Tensor, targets: tuple[Tensor, ...], generator: np.random.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
    return x + float(generator.random()), (targets[0] + int(generator.integers(100)) * 100,)


def equal(first: list, second: list) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b[0], d[0]) for (a, b), (c, d) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("augment", [None, jitter])
@pytest.mark.parametrize("workers", [0, 2])
def test_lazy_batches_are_those_in_memory(workers: int, augment: object) -> None:
    held, lazy = Split(INPUTS, (TARGET,)), Lazy(read, torch.arange(N), workers)
    for start in (0, 2):
        state = torch.random.get_rng_state()
        a = list(Batches(held, 4, seed=3, augment=augment).epoch(5, start))
        b = list(Batches(lazy, 4, seed=3, augment=augment).epoch(5, start))
        assert equal(a, b)
        assert len(a) == 3 - start
        assert torch.equal(state, torch.random.get_rng_state()), "the global random state is left alone"


def test_augmentation_depends_on_seed_epoch_and_sample_alone() -> None:
    split = Split(INPUTS, (TARGET,))

    def shifts(size: int, epoch: int, seed: int = 0, shuffle: bool = True) -> dict[int, int]:
        batches = Batches(split, size, seed=seed, shuffle=shuffle, augment=jitter).epoch(epoch)
        return {int(t) % 100: int(t) // 100 for _, (target,) in batches for t in target}

    assert shifts(4, 1) == shifts(3, 1) == shifts(4, 1, shuffle=False)
    assert shifts(4, 1) != shifts(4, 2)
    assert shifts(4, 1) != shifts(4, 1, seed=1)
    assert len(set(shifts(4, 1).values())) > 5


def test_taking_the_first_samples() -> None:
    lazy = Lazy(read, torch.tensor([7, 3, 9, 1]))
    inputs, (target,) = lazy.take(2).in_memory()
    assert target.tolist() == [7, 3]
    assert torch.equal(inputs, INPUTS[[7, 3]])
    assert lazy.rows(torch.tensor([3, 0]))[1][0].tolist() == [1, 7]
    with pytest.raises(ValueError, match="`count`"):
        lazy.take(5)
