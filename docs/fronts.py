"""Draw the fronts of several runs in one figure: `python docs/fronts.py OUT.png RUN [RUN ...]`.

Runs of one method are its seeds; a run with a single point is a control. Prints mean and spread over the seeds.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import torch

from palora.evaluation import Front
from palora.report.figures import front_figure


def main(out: str, runs: list[str]) -> None:
    fronts: dict[str, list[Front]] = defaultdict(list)
    points: dict[str, list[Front]] = defaultdict(list)
    numbers: dict[str, list[dict[str, float]]] = defaultdict(list)
    for run in map(Path, runs):
        front = Front.load(run / "front.json")
        summary = json.loads((run / "front.json").read_text())["summary"]
        method = summary["method"]
        (fronts if len(front) > 1 else points)[method].append(front)
        numbers[method].append(row(front, summary))
    front_figure(dict(fronts), Path(out), points=dict(points))
    for method, found in numbers.items():
        print(method, f"({len(found)} seeds)")
        for key in found[0]:
            values = torch.tensor([seed[key] for seed in found], dtype=torch.float64)
            spread = f" ± {values.std():.4f}" if len(values) > 1 else ""
            print(f"  {key:<28} {values.mean():.4f}{spread}")


def row(front: Front, summary: dict) -> dict[str, float]:
    """The numbers of one run that go into a table."""
    cells = {f"best {name}": float(values.max()) for name, values in front.metrics.items()}
    cells["hypervolume, accuracies"] = summary["hypervolume"]["accuracies"]
    cells["hypervolume, losses"] = summary["hypervolume"]["losses"]
    if len(front) > 1:
        cells["non-dominated of grid"] = summary["nondominated"]["count"]
        cells |= {f"Spearman {task}": value for task, value in summary["spearman"].items()}
        for ray, values in summary["fixed_rays"].items():
            cells |= {f"at {ray}: {k}": v for k, v in values.items() if k.startswith("accuracy")}
    return cells


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
