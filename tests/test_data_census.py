"""Census: on 60 generated people; on the UCI files where PALORA_DATA names a folder that holds them."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from palora import data
from palora.data import census
from palora.errors import PaloraError

real = pytest.mark.skipif(
    not os.environ.get("PALORA_DATA") or census.locate() is None,
    reason="needs Census-Income (KDD): name its folder in PALORA_DATA",
)
DEGREES = ["Children", "High school graduate", "Some college but no degree", "Masters degree(MA MS MEng)"]
EXPECTED = {True: [0, 0, 1, 1], False: [0, 0, 1, 0]}


def people(count: int, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        row = [f"value {draw.randrange(3)}" for _ in range(census.COLUMNS)]
        row[census.AGE] = str(38 + i % 4)
        row[census.EDUCATION] = DEGREES[i % 4]
        row[census.SEX] = ["Female", "Male"][i % 2]
        for column in census.NUMBERS:
            row[column] = f"{draw.random() * 50:.2f}"
        rows.append(row)
    for column in census.INDICATORS:  # every value occurs
        for v in range(3):
            rows[v][column] = f"value {v}"
    return rows


def write(path: Path, rows: list[list[str]]) -> None:
    """The rows as UCI writes them, which from now on is the right content of the file."""
    content = "".join(", ".join(row) + ".\n" for row in rows).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content))
    census._SHA256[path.stem] = (hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(census, "ROWS", {census.TRAIN: 40, census.TEST: 20})
    monkeypatch.setattr(census, "_SHA256", {})
    monkeypatch.setattr(census, "FEATURES", 6 + 3 * len(census.INDICATORS) + 1)
    write(tmp_path / "census" / f"{census.TRAIN}.gz", people(40, 0))
    write(tmp_path / "census" / f"{census.TEST}.gz", people(20, 1))
    return tmp_path


@pytest.mark.parametrize("masters", [True, False])
@pytest.mark.needs("safetensors")
def test_every_feature_of_every_person(root: Path, masters: bool) -> None:
    dataset = data.load("census", folder=root, masters=masters)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (32, 8, 20)
    everyone = people(40, 0)
    validation = np.random.default_rng(0).permutation(40)[:8]
    training = [i for i in range(40) if i not in set(validation.tolist())]
    numbers = np.array([[float(everyone[i][c]) for c in census.NUMBERS] for i in training])
    tests = people(20, 1)
    for split, rows in ((dataset.train, [everyone[i] for i in training]), (dataset.test, tests)):
        for i, row in enumerate(rows):
            scaled = (np.array([float(row[c]) for c in census.NUMBERS]) - numbers.mean(0)) / numbers.std(0)
            flags = [float(row[c] == f"value {v}") for c in census.INDICATORS for v in range(3)]
            expected = [*scaled, *flags, float(row[census.SEX] == "Male")]
            assert split.inputs[i].tolist() == pytest.approx(expected, abs=1e-5)
            assert split.targets[0][i] == (int(row[census.AGE]) >= 40)
            assert split.targets[1][i] == EXPECTED[masters][DEGREES.index(row[census.EDUCATION])]


@pytest.mark.needs("safetensors")
def test_the_cache_is_of_the_files_and_not_of_the_options(root: Path) -> None:
    first = data.load("census", folder=root)
    assert len(list((root / "cache").rglob("*.safetensors"))) == 1
    assert torch.equal(data.load("census", folder=root).train.inputs, first.train.inputs)
    data.load("census", folder=root, masters=False)
    assert len(list((root / "cache").rglob("*.safetensors"))) == 1
    changed = people(40, 0)
    changed[5][census.NUMBERS[0]] = "1000.0"
    write(root / "census" / f"{census.TRAIN}.gz", changed)
    assert not torch.equal(data.load("census", folder=root).train.inputs, first.train.inputs)


@pytest.mark.needs("safetensors")
def test_the_rare_household_is_left_out(root: Path) -> None:
    rows = people(40, 0)
    rows[7][census.HOUSEHOLD] = census.RARE
    write(root / "census" / f"{census.TRAIN}.gz", rows)
    dataset = data.load("census", folder=root)
    assert len(dataset.train) + len(dataset.validation) == 39


def spoil(rows: list[list[str]], how: str) -> list[list[str]]:
    if how == "cut short":
        return rows[:-3]
    if how == "another file":
        return rows + rows
    if how == "column missing":
        rows[4] = rows[4][:-1]
    if how == "another age":
        rows[4][census.AGE] = "99"
    if how == "not a number":
        rows[4][census.NUMBERS[2]] = "many"
    if how == "too few values":
        for row in rows:
            row[census.INDICATORS[0]] = "value 0"
    return rows


@pytest.mark.parametrize(
    "how, message",
    [
        ("cut short", r"census-income\.data\.gz has 37 rows in place of 40: it is cut short"),
        ("another file", r"80 rows in place of 40: it is another file"),
        ("column missing", r"line 5 has 41 columns in place of 42"),
        ("not a number", r"could not convert string to float: 'many'"),
        ("too few values", r"should have 94 features.*Found 92"),
        ("another age", r"data\.gz is not the file of the UCI repository: expected sha256 \w{64} of the.*found \w{64}"),
    ],
)
def test_a_spoilt_file_is_one_error(root: Path, how: str, message: str) -> None:
    right = dict(census._SHA256)
    write(root / "census" / f"{census.TRAIN}.gz", spoil(people(40, 0), how))
    census._SHA256.update(right)
    with pytest.raises(PaloraError, match=message + r".*palora data prepare census"):
        data.load("census", folder=root)


@pytest.mark.needs("safetensors")
def test_unknown_values_and_swapped_files(root: Path) -> None:
    rows = people(20, 1)
    rows[3][census.INDICATORS[2]] = "value 9"
    write(root / "census" / f"{census.TEST}.gz", rows)
    with pytest.raises(PaloraError, match=r"census-income\.test\.gz.*'value 9'"):
        data.load("census", folder=root)
    path = root / "census" / f"{census.TRAIN}.gz"
    path.rename(root / "census" / "other")
    with pytest.raises(PaloraError, match=r"missing census-income\.data.*palora data prepare census.*PALORA_DATA"):
        data.load("census", folder=root)
    path.write_bytes(b"\x1f\x8b nothing")
    with pytest.raises(PaloraError, match=r"census-income\.data\.gz is.*palora data prepare census"):
        data.load("census", folder=root)


def test_preparing_replaces_what_is_damaged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, path = b"sound", root / "census" / census.TRAIN
    (root / "census" / f"{census.TRAIN}.gz").unlink()
    path.write_bytes(b"damaged")
    fetched = []

    def fetch(urls: list[str], target: Path, **expected: object) -> Path:
        fetched.append((urls, expected["sha256"], expected["size"]))
        target.write_bytes(gzip.compress(sound))
        return target

    monkeypatch.setattr(census, "fetch", fetch)
    monkeypatch.setattr(census, "load", lambda **_: None)
    census._SHA256[census.TRAIN] = (hashlib.sha256(sound).hexdigest(), len(sound))
    assert census.prepare(root) == root / "census"
    assert fetched == [([f"{census.MIRRORS[0]}{census.TRAIN}.gz"], *census._SHA256[census.TRAIN])]
    assert not path.exists(), "the .gz beside it has taken its place"
    census.prepare(root)
    assert len(fetched) == 1, "sound files are kept"


@real
@pytest.mark.slow
def test_the_uci_files_have_468_features() -> None:
    dataset = data.load("census")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (159_617, 39_904, 99_762)
    assert dataset.train.inputs.shape[1] == 468
    indicators = dataset.test.inputs[:, 6:467]
    assert (indicators.sum(1) == 29).all()
    assert torch.isin(indicators, torch.tensor([0.0, 1.0])).all()
    numbers = dataset.train.inputs[:, :6]
    assert numbers.mean(0).abs().max() < 1e-5
    assert (numbers.std(0) - 1).abs().max() < 1e-3
    # Shares of the published test file: 39,366 of 99,762 people are 40 or older.
    assert int(dataset.test.targets[0].sum()) == 39_366
    released = data.load("census", masters=False)
    assert int(dataset.test.targets[1].sum() - released.test.targets[1].sum()) == 3306
