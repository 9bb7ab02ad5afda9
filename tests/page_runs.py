"""Run folders as an evaluation leaves them, made without training: for the tests of pages and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palora import recipes
from palora.engine import RunFolder
from palora.evaluation import Front, summary
from palora.rays import simplex_grid
from palora.showing import show_input, show_tasks

RECIPES = {2: "multimnist-small", 3: "multimnist3", 7: "sarcos-reduced"}
TASKS = {2: ("left", "right"), 3: ("top-left", "top-right", "bottom"), 7: tuple(f"torque {t}" for t in range(1, 8))}


def make_run(
    folder: Path, tasks: int = 2, method: str = "palora", seed: int = 0, divisions: int = 4, **config: Any
) -> Path:
    """An evaluated run; `method` ls has a single point. Losses follow from rays and seed: tests can say them."""
    settings = recipes.get(RECIPES[tasks]).configure(method=method, seed=seed, epochs=3, **config)
    rays = torch.full((1, tasks), 1 / tasks) if method == "ls" else simplex_grid(tasks, divisions)
    front = front_of(rays, tasks, seed)
    run = RunFolder(folder)
    run.create(settings)
    about = {
        "recipe": settings.recipe,
        "method": method,
        "seed": seed,
        "split": "test",
        "checkpoint": "last",
        "epochs": "3 of 3",
        "parameters": 1000 + tasks,
        **summary(front, settings.reference or 1.0),
    }
    run.front_file.write_text(json.dumps({**json.loads(front.to_json()), "summary": about}))
    run.samples_file.write_text(json.dumps(samples_of(rays, tasks)))
    for epoch in (1, 2, 3):
        empty: dict[str, Any] = {"rays": [], "losses": [], "metrics": {}}
        validation = {"hypervolume": 0.1 * epoch, "nondominated": len(rays), **empty}
        record = {"kind": "epoch", "epoch": epoch, "step": 10 * epoch, "losses": [1.0 / epoch] * tasks}
        run.append({**record, "validation": validation})
    costs = {"epoch": 3, "train_seconds": 2.0, "validation_seconds": 1.0, "peak_memory": 2**30}
    run.costs_file.write_text(json.dumps(costs) + "\n")
    return run.path


def front_of(rays: Tensor, tasks: int, seed: int) -> Front:
    """0.2 + 0.6·(1 − λ_t)² for task t, a little worse for later seeds; ray 1 is worse than ray 2 for every task."""
    losses = 0.2 + 0.6 * (1 - rays) ** 2 + 0.01 * seed
    if len(rays) > 4:
        losses[1] = losses[2] + 0.05
    metrics = {} if tasks > 3 else {f"accuracy/{task}": 1 - losses[:, t] / 2 for t, task in enumerate(TASKS[tasks])}
    return Front(rays, losses, metrics, TASKS[tasks], note="made for a test")


def samples_of(rays: Tensor, tasks: int, count: int = 3) -> dict[str, Any]:
    """Digits of ten classes, whose likeliest class moves along the first weight; rows of numbers for seven tasks."""
    samples = []
    for index in range(count):
        if tasks > 3:
            outputs = [rays[:, t : t + 1] * 10 + index for t in range(tasks)]
            targets: list[Tensor] = [torch.tensor([float(index)])] * tasks
            inputs = torch.arange(4.0)
        else:
            guess = (rays[:, 0] * 4).round().long()
            outputs = [torch.nn.functional.one_hot(guess, 10) * 3.0 for _ in range(tasks)]
            targets = [torch.tensor(index)] * tasks
            inputs = torch.rand(1, 28, 28)
        shown = show_tasks(outputs, targets)
        sample = {"index": index, "chosen": "changes" if index == 2 else "first", "input": show_input(inputs)}
        samples.append({**sample, "truth": shown.truth, "answers": shown.answers})
    kinds = [{"name": name, "kind": "values" if tasks > 3 else "classes"} for name in TASKS[tasks]]
    return {
        "format": "palora samples 1",
        "split": "test",
        "checkpoint": "last",
        "tasks": kinds,
        "rays": [[round(weight, 6) for weight in ray] for ray in rays.tolist()],
        "samples": samples,
    }
