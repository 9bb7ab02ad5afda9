"""What becomes of public architectures at many rays: writes the table of docs/architectures.md.

    python docs/architectures.py        # half a minute; no argument, no download
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import torch  # noqa: E402
from zoo import EXHIBITS, tried  # noqa: E402

HEAD = """# Architectures at many rays

A model at many rays has to be what it is at each of them. Below are public architectures, written small and with random
weights (`tests/zoo.py`), adapted with T = 2 and r = 2 and asked at three rays, in float64, in evaluation and in
training mode. **Exact** means: as a loop over copies merged at each ray, with the largest relative difference. All
others are refused in the sentence that stands there. `palora.check(model, inputs)` asks the same of a model of your
own, gradients and a ray a sample included, and names the first module where they part.

`python docs/architectures.py` writes this page; `tests/test_zoo.py` is the same as a test.

| architecture | options of `adapt` | adapted layers | at many rays |
|---|---|---|---|
"""


def options_of(options: dict[str, object] | None) -> str:
    return ", ".join(f"`{name}={value!r}`" for name, value in (options or {}).items())


def line(name: str) -> str:
    result = tried(name)
    found = f"refused: {result.refusal}" if result.refusal else f"**exact**, {result.difference:.0e}"
    return f"| {name} | {options_of(EXHIBITS[name].options)} | {result.layers or ''} | {found.replace('|', '/')} |"


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lines = [line(name) for name in EXHIBITS]
    (HERE / "architectures.md").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
