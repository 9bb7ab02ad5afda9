"""The small commands, progress on and off a terminal, and how quickly help is there."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")

from rich.console import Console

import palora_kernels
from palora import methods, recipes
from palora.cli import main
from palora.cli.data import Steps
from palora.cli.flags import method_flags
from palora.engine.progress import Bar, Plain, Rate, reporter


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in ("train", "evaluate", "data", "recipes", "doctor", "--debug"))


def test_help_does_not_import_torch() -> None:
    program = "import sys; from palora.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0


def test_every_option_of_every_method_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--rank", "--alpha", "--rays", "--temperature", "--schedule", "--form", "--ray-chunk"):
        assert flag in out
    flags = method_flags()
    assert flags["rank"][0] is int
    assert flags["temperature"][0] is float  # optional: its default depends on the schedule
    assert flags["schedule"][0] is str


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in [*recipes.names(), *methods.names()])
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for name in recipes.names():
        assert rows[name].endswith(recipes.get(name).takes)


def test_one_recipe_shows_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "utkface"]) == 0
    out = capsys.readouterr().out
    assert "one version of its code has p = 2" in " ".join(out.split()), "where settings come from"
    assert "resnet18" in out
    assert "outputs = (1, 2, 5)" in out
    palora, pamal = (next(line for line in out.splitlines() if line.startswith(name)) for name in ("palora", "pamal"))
    assert all(text in palora for text in ("rank = 4", "schedule = annealed-dirichlet", "rays = 1"))
    assert all(text in pamal for text in ("window = 3", "regularisation = 1", "p = 5", "balance = gradient"))
    assert main(["recipes", "utk"]) == 1
    assert "utkface" in capsys.readouterr().err


def test_recipe_of_the_paper() -> None:
    config = recipes.get("multimnist").configure()
    assert (config.epochs, config.batch, config.lr, config.method) == (10, 256, 1e-3, "palora")
    options = config.method_options
    assert (options["rank"], options["alpha"], options["rays"], options["form"]) == (1, 1.0, 5, "loralib")
    assert (options["schedule"], options["exponent"], options["temperature"]) == ("annealed", "product", None)
    schedule = methods.build("palora", 2, options).schedule
    assert schedule.temperature == 5
    assert config.dataset_options == {"offset": 6}


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PALORA_BACKEND", "eager")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name, reason in palora_kernels.backends().items():
        assert any(line.split(maxsplit=1) == [name, reason] for line in out.splitlines()), name
    for text in ("torch", "threads", "multimnist-small", str(tmp_path / "cache"), "writable", "PALORA_BACKEND"):
        assert text in out
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor"]) == 0
    assert "not writable" in capsys.readouterr().out


def test_data_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "list", "--data", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "present" in lines["multimnist-small"]
    assert "missing" in lines["mnist"]


def test_data_prepare(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "multimnist-small"]) == 0
    assert "multimnist-small is ready" in capsys.readouterr().out


def test_progress_of_a_download_is_one_line_off_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    for done in (0, 50, 100):
        steps("digits.gz", done, 100)
    steps("pairs", 1, None)
    assert capsys.readouterr().err == "digits.gz …\npairs …\n"


def text_of(terminal: bool) -> str:
    out = io.StringIO()
    show = reporter(Console(file=out, force_terminal=terminal, width=120))
    assert isinstance(show, Bar if terminal else Plain)
    show.note("[red]as it is[/red]")
    show.start(["left", "right"], epochs=2, step=3, steps=4)
    show.step(2, [0.5, 0.25], rays=5)
    show.epoch(2, [0.5, 0.25], 0.75)
    show.stop()
    show.stop()
    return out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(terminal: bool) -> None:
    out = text_of(terminal)
    for text in ("[red]as it is[/red]", "epoch 2/2", "left 0.500  right 0.250", "hypervolume 0.7500", "rays/s", "left"):
        assert text in out, text
    assert ("\x1b" in out) == terminal
    assert "4/4" in out


def test_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("palora.engine.progress.time.monotonic", lambda: now[0])
    rate = Rate(step=10)  # resumed: what came before does not count
    assert rate.time_left(10, 20) == "?"
    for _ in range(4):
        now[0] += 30
        rate.add(5)
    assert rate.rays_per_second() == pytest.approx(20 / 120)
    assert rate.time_left(14, 20) == "3:00"
