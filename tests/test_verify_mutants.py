"""The list of planted bugs is of the code as it is; planting them takes long and is a command of its own."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from palora_kernels.verify import mutants
from palora_kernels.verify.planted import BUGS

ROOT = Path(__file__).parent.parent


def test_every_bug_applies_once_and_is_python() -> None:
    assert [str(bug) for bug in BUGS if not mutants.applies(bug)] == []
    for bug in BUGS:
        ast.parse((ROOT / bug.file).read_text(encoding="utf-8").replace(bug.text, bug.planted))
        assert bug.text != bug.planted
        files, _, _ = bug.tests.partition(" -k ")
        assert all((ROOT / name).is_file() for name in files.split()), bug.tests


def test_every_kernel_has_a_bug() -> None:
    with_bugs = {bug.file for bug in BUGS}
    for path in (ROOT / "palora_kernels" / "triton").rglob("*.py"):
        if "@triton.jit" in path.read_text(encoding="utf-8"):
            assert path.relative_to(ROOT).as_posix() in with_bugs
    assert len({(bug.file, bug.planted, bug.text) for bug in BUGS}) == len(BUGS) >= 60


def test_a_bug_whose_text_is_gone_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mutants, "BUGS", (BUGS[0], replace(BUGS[1], text="no such line", reason="gone")))
    assert mutants.main(["--list"]) == 1
    assert "does not apply: linear/product.py: gone" in capsys.readouterr().out
    assert mutants.main(["--list", "--only", BUGS[0].reason]) == 0
