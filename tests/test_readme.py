"""The commands of README.md exist, with their flags, and so do the files, programs and targets that it names."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = [README, *((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "CHANGELOG.md"))]
TEXTS += [file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {"$seed": "0", "$method": "palora", "<this repository>": "URL"}


def commands(program: str) -> list[list[str]]:
    """The words after `program`, wherever a block or inline code of the README calls it."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    parts = [part for language, block in blocks if not language for part in block.splitlines()]
    lines = [line for part in parts for line in part.split("; ")]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    found = []
    for line in lines:
        for name, value in EXAMPLES.items():
            line = line.replace(name, value)
        words = line.split(" #")[0].split()
        words = words[1:] if words[:1] == ["do"] else words
        if words[: len(program.split())] == program.split():
            found.append(words[len(program.split()) :])
    return found


@pytest.mark.needs("typer")
def test_the_command_line_takes_every_command() -> None:
    import typer.main

    from palora.cli.main import build

    several = commands("palora")
    assert len(several) > 20
    for words in filter(None, several):
        group = typer.main.get_command(build(words))
        with group.make_context("palora", list(words)) as context:
            name, command, rest = group.resolve_command(context, list(words))
            if rest:  # without arguments it is the command's name: "`palora train` continues …"
                command.make_context(name, rest, parent=context)


def test_the_programs_files_and_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {words[0] for words in commands("make") if words} <= set(targets)
    for words in commands("python"):
        if words[0] != "-m":
            assert (ROOT / words[0]).is_file(), words
        elif words[1] != "palora":
            assert importlib.util.find_spec(words[1]) is not None, words
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_no_command_installs_what_others_called_palora() -> None:
    """pip gets a path or the distribution's own name."""
    for text in TEXTS:
        assert not re.search(r"pip install[^`\n]*['\" ]palora(?!-torch)", text)
        assert not re.search(r"(?<![\w.-])palora\[", text)
