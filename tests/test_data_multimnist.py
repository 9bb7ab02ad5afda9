from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

from palora import data
from palora.data import Dataset, mnist
from palora.data.multimnist import Part, complete_parts, pairs, small_parts
from palora.errors import PaloraError

SPLITS = ("train", "validation", "test")

needs_mnist = pytest.mark.skipif(
    not os.environ.get("PALORA_DATA") or mnist.locate() is None,
    reason="needs the complete MNIST set: name its folder in PALORA_DATA",
)


@pytest.fixture(scope="module")
def small() -> Dataset:
    return data.load("multimnist-small")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        return data.load("multimnist")


def same(first: Dataset, second: Dataset) -> bool:
    return all(
        torch.equal(getattr(first, part).inputs, getattr(second, part).inputs)
        and all(map(torch.equal, getattr(first, part).targets, getattr(second, part).targets))
        for part in SPLITS
    )


def by_hand(left: np.ndarray, right: np.ndarray, offset: int) -> np.ndarray:
    """One pair as the authors' code lays it out: two slices and the maximum where they meet."""
    canvas = np.zeros((36, 36), dtype=np.uint8)
    canvas[:28, :28] = left
    canvas[offset : offset + 28, offset : offset + 28] = right
    overlap = 28 - offset
    canvas[offset:28, offset:28] = np.maximum(left[offset:, offset:], right[:overlap, :overlap])
    return np.array(Image.fromarray(canvas).resize((28, 28))) / np.float32(255)


def check_against_hand(dataset: Dataset, parts: dict[str, Part], place: Path, seed: int, offset: int) -> None:
    index = pairs(parts, seed)
    for name in SPLITS:
        digits, split = mnist.read(parts[name].source, place), getattr(dataset, name)
        for row in (0, 1, 2, len(split) // 2, len(split) - 1):
            left, right = index[name][row]
            np.testing.assert_array_equal(
                split.inputs[row, 0].numpy(), by_hand(digits.images[left], digits.images[right], offset)
            )
            assert [int(target[row]) for target in split.targets] == [
                digits.labels[left],
                digits.labels[right],
            ]


def check_form(dataset: Dataset, sizes: tuple[int, int, int]) -> None:
    assert tuple(len(getattr(dataset, part)) for part in SPLITS) == sizes
    for part in SPLITS:
        split = getattr(dataset, part)
        assert split.inputs.shape[1:] == (1, 28, 28)
        assert split.inputs.dtype == torch.float32
        assert split.inputs.min() == 0
        assert split.inputs.max() == 1
        assert [target.dtype for target in split.targets] == [torch.int64] * 2
    assert [task.name for task in dataset.tasks] == ["left", "right"]
    assert {(t.loss, t.metric, t.outputs) for t in dataset.tasks} == {("cross_entropy", "accuracy", 10)}


def check_disjoint(parts: dict[str, Part], sources: dict[str, int]) -> None:
    """No digit in two splits, and every digit of the sources in one."""
    index = pairs(parts, seed=3)
    used = {name: {(parts[name].source, int(digit)) for digit in index[name].ravel()} for name in SPLITS}
    assert not used["train"] & used["validation"]
    assert not (used["train"] | used["validation"]) & used["test"]
    everything = {(source, digit) for source, count in sources.items() for digit in range(count)}
    assert used["train"] | used["validation"] | used["test"] == everything
    assert all((rows[:, 0] != rows[:, 1]).all() for rows in index.values())


def test_small_set_has_the_promised_form(small: Dataset) -> None:
    check_form(small, (20_000, 2_000, 4_000))
    assert "small bundled set" in small.note
    assert "not comparable" in small.note


def test_no_digit_of_a_small_test_pair_is_ever_trained_on() -> None:
    check_disjoint(small_parts(), {"test": 10_000})
    halves = [np.mean(part.digits < 5_000) for part in small_parts().values()]
    assert halves == [0.5] * 3, "each split has as many of the easy half as of the hard one"


def test_no_digit_of_the_complete_set_is_in_two_splits() -> None:
    check_disjoint(complete_parts(), {"train": 60_000, "test": 10_000})


@pytest.mark.parametrize("offset", [0, 6, 8])
def test_pairs_are_laid_out_as_by_hand(offset: int) -> None:
    dataset = data.load("multimnist-small", seed=5, offset=offset)
    check_against_hand(dataset, small_parts(), mnist.BUNDLED, 5, offset)


def test_the_offset_moves_the_right_digit_only(small: Dataset) -> None:
    papers = data.load("multimnist-small", offset=8)
    assert not torch.equal(papers.train.inputs, small.train.inputs)
    assert all(map(torch.equal, papers.train.targets, small.train.targets))
    # At 8 the right digit reaches the canvas's last rows; at 6 two empty rows are left below it.
    assert papers.train.inputs[:, :, -1].sum() > small.train.inputs[:, :, -1].sum()


def test_the_seed_decides_everything(small: Dataset) -> None:
    torch.manual_seed(17)
    np.random.seed(17)
    assert same(data.load("multimnist-small", seed=0), small)
    other = data.load("multimnist-small", seed=1)
    for part in SPLITS:
        left, right = getattr(other, part).targets
        assert torch.equal(left, getattr(small, part).targets[0]), "the left digits are the split in order"
        assert not torch.equal(right, getattr(small, part).targets[1])


def test_the_pairs_never_change_between_releases() -> None:
    digest = hashlib.sha256()
    for parts in (small_parts(), complete_parts()):
        for rows in pairs(parts, seed=0).values():
            digest.update(rows.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "6d111be6eea7a3a1"


def test_classes_are_balanced_as_in_mnist(small: Dataset) -> None:
    digits = mnist.read("test", mnist.BUNDLED)
    for part, plan in small_parts().items():
        shares = np.bincount(digits.labels[plan.digits], minlength=10) / len(plan.digits)
        split = getattr(small, part)
        for target in split.targets:
            found = np.bincount(target.numpy(), minlength=10) / len(split)
            # Four standard deviations of a share near 0.1.
            assert np.abs(found - shares).max() < 4 * (0.09 / len(split)) ** 0.5
        # Left and right are independent: knowing one says nothing of the other.
        left, right = (target.double() for target in split.targets)
        assert abs(np.corrcoef(left, right)[0, 1]) < 4 / len(split) ** 0.5


def test_limit_keeps_the_first_training_pairs(small: Dataset) -> None:
    few = data.load("multimnist-small", limit=300)
    assert torch.equal(few.train.inputs, small.train.inputs[:300])
    assert torch.equal(few.train.targets[1], small.train.targets[1][:300])
    assert torch.equal(few.test.inputs, small.test.inputs)
    assert "300 training pairs" in few.note


@pytest.mark.parametrize(
    "option", [{"offset": 9}, {"offset": -1}, {"offset": 6.0}, {"seed": -1}, {"limit": 0}, {"limit": 20_001}]
)
def test_bad_arguments_are_named(option: dict[str, int]) -> None:
    name = next(iter(option))
    with pytest.raises(ValueError, match=rf"`{name}`.*Found {option[name]}\."):
        data.load("multimnist-small", **option)


def test_the_complete_set_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(PaloraError, match=r"train-images.*palora data prepare mnist.*--data DIR.*PALORA_DATA"):
        data.load("multimnist", folder=tmp_path)


@needs_mnist
def test_complete_set_has_the_published_sizes(complete: Dataset) -> None:
    check_form(complete, (50_000, 10_000, 10_000))
    place = mnist.locate()
    assert place is not None
    check_against_hand(complete, complete_parts(), place, 0, 6)


@needs_mnist
def test_cached_pairs_equal_fresh_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path))
    built: list[str] = []

    def load(**options: int) -> Dataset:
        built.clear()
        return data.load("multimnist", limit=500, progress=lambda what, done, total: built.append(what), **options)

    fresh = load()
    assert set(built) == {"train pairs", "validation pairs", "test pairs"}
    assert same(load(), fresh)
    assert built == [], "the second time comes from the cache"
    for other in ({"offset": 8}, {"seed": 1}):
        assert not same(load(**other), fresh)
        assert built != []
    assert same(load(), fresh)
    for path in tmp_path.rglob("*.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[:-1000] + bytes(byte ^ 255 for byte in content[-1000:]))
    assert same(load(), fresh)
    assert built != [], "a damaged cache is built anew"


@needs_mnist
def test_prepare_builds_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path))
    assert data.prepare("multimnist") == mnist.locate()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    built: list[str] = []
    data.load("multimnist", progress=lambda what, done, total: built.append(what))
    assert built == []
