"""What a trained model answers for a few samples at the rays of its front: samples.json, which the page shows.

``{"format": "palora samples 1", "split", "checkpoint", "tasks": [{"name", "kind"}], "rays": [[…]], "samples":
[{"index", "chosen", "input", "truth": [per task], "answers": [per ray][per task]}]}``; see :mod:`palora.showing`
for the entries.
The file is bounded: MOST_BYTES, whatever the data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palora.data import Lazy, Split
from palora.engine.setup import Parts
from palora.files import write_file
from palora.showing import dense, kind_of, show_input, show_tasks

FORMAT = "palora samples 1"
COUNT = 12
"""Samples that are kept; of dense tasks PICTURES at most."""
MOST_SAMPLES = 100
PICTURES = 3
PICTURE_RAYS = 24
"""The most rays at which dense tasks are shown."""
LOOKED_AT = 256
"""Among so many samples those are sought whose answers change most."""
MOST_BYTES = 1_500_000
NUMBERS_A_PASS = 1_000_000
"""The most numbers that go into the model in one pass: rows times what a row holds."""


def write_samples(
    parts: Parts, data: Split | Lazy, rays: Tensor, path: Path, count: int, about: dict[str, str]
) -> None:
    """Write what the model answers for `count` samples of `data` at `rays` (K, T); 0: remove what is there.

    Half of them are the first ones, half those of the first LOOKED_AT whose answers change most along the rays.
    `about`: more keys, split and checkpoint.
    """
    if count == 0:
        path.unlink(missing_ok=True)
        return
    content = {"format": FORMAT, **about, **collect(parts, data, rays, count)}
    samples = content["samples"]
    text = _text(content)
    while len(text.encode()) > MOST_BYTES and samples:
        del samples[-max(1, len(samples) // 4) :]
        text = _text(content)
    write_file(path, text)


def collect(parts: Parts, split: Split | Lazy, rays: Tensor, count: int) -> dict[str, Any]:
    """Tasks, rays and samples, as they stand in samples.json."""
    inputs, targets = split.rows(torch.arange(min(count, len(split))))
    kinds = [kind_of(o[0, 0], t[0]) for o, t in zip(answer(parts, inputs[:1], rays[:1]), targets, strict=True)]
    if any(dense(kind) for kind in kinds):
        rays = spread(rays, PICTURE_RAYS)
        chosen = dict.fromkeys(range(min(count, PICTURES, len(split))), "first")
    else:
        chosen = choose(parts, split, rays, count)
    samples = []
    for index, why in chosen.items():
        inputs, targets = split.rows(torch.tensor([index]))
        shown = show_tasks([output[:, 0] for output in answer(parts, inputs, rays)], [target[0] for target in targets])
        entry = {"index": index, "chosen": why, "input": show_input(inputs[0])}
        samples.append({**entry, "truth": shown.truth, "answers": shown.answers})
    names = [task.name for task in parts.dataset.tasks]
    tasks = [{"name": name, "kind": kind} for name, kind in zip(names, kinds, strict=True)]
    return {"tasks": tasks, "rays": [[round(w, 6) for w in ray] for ray in rays.tolist()], "samples": samples}


def answer(parts: Parts, inputs: Tensor, rays: Tensor) -> list[Tensor]:
    """T tensors (K, n, …) on the CPU: the model on a few `inputs` (n, …) at `rays` (K, T), without gradients.

    The model is in evaluation mode for the duration. As many rays go through together as
    the method and NUMBERS_A_PASS allow.
    """
    mode = parts.model.training
    parts.model.eval()
    try:
        with torch.no_grad():
            placed = parts.place(inputs)
            room = max(1, NUMBERS_A_PASS // max(1, inputs.numel()))
            at_once = min(parts.method.rays_per_pass or room, room)
            passes = [parts.method.forward(parts.model, placed, parts.move(some)) for some in rays.split(at_once)]
    finally:
        parts.model.train(mode)
    return [torch.cat([output.float().cpu() for output in outputs]) for outputs in zip(*passes, strict=True)]


def choose(parts: Parts, split: Split | Lazy, rays: Tensor, count: int) -> dict[int, str]:
    """Index → why: the first samples as they come, then those that change most, the most changing first."""
    count = min(count, len(split))
    first = count if len(rays) == 1 else (count + 1) // 2
    chosen = dict.fromkeys(range(first), "first")
    if first < count:
        looked = torch.arange(min(LOOKED_AT, len(split)))
        inputs, targets = split.rows(looked)
        change = sum(_change(o, t) for o, t in zip(answer(parts, inputs, rays), targets, strict=True))
        assert isinstance(change, Tensor)
        order = [int(i) for i in change.argsort(descending=True, stable=True) if int(i) not in chosen]
        chosen.update((index, "changes") for index in order[: count - first])
    return chosen


def _change(output: Tensor, target: Tensor) -> Tensor:
    """(n,): how far an answer moves along the rays: the probability of the true class, or values by their spread."""
    if target.is_floating_point():
        rows = output.flatten(2)
        return ((rows.amax(0) - rows.amin(0)) / rows.std().clamp(min=1e-12)).mean(1)
    probability = output.softmax(2).gather(2, target.clamp(min=0).expand(len(output), -1)[..., None])[..., 0]
    return probability.amax(0) - probability.amin(0)


def spread(rays: Tensor, most: int) -> Tensor:
    """At most `most` of `rays`, in their order, each chosen as far from those before as can be."""
    if len(rays) <= most:
        return rays
    chosen = [0]
    nearest = torch.cdist(rays, rays[:1])[:, 0]
    while len(chosen) < most:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.cdist(rays, rays[chosen[-1:]])[:, 0])
    return rays[sorted(chosen)]


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n"
