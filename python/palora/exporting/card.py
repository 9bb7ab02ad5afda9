"""README.md beside an exported model: what it is, what it achieves, how to load it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from palora import __version__, data, methods
from palora.data import TaskSpec
from palora.engine.trained import Trained

NEEDS = {
    "state-dict": "It needs PyTorch alone.",
    "torch-export": "It needs PyTorch alone.",
    "onnx": "It needs an ONNX runtime, such as the package onnxruntime.",
    "adapters": "It needs palora, and answers at any preference.",
}


def card(trained: Trained, about: dict[str, Any], load: str, inputs: Tensor) -> str:
    """The text; `about`: export.json; `load`: Python that defines ``model(x)``; `inputs`: some inputs (n, …)."""
    weights = ", ".join(f"{task} {weight:g}" for task, weight in about["preference"].items())
    names = ", ".join(map(_identifier, trained.tasks))
    checked = (
        "Read back, all tensors were the same to the bit."
        if about["export"] == "adapters"
        else "Loaded again by a process without palora it answered as the trained model does: largest relative "
        f"difference {about['largest_difference']:.1e}."
    )
    return f"""# {trained.config.recipe}, {trained.config.method}: {weights}

One point of a Pareto front, written by [palora](https://arxiv.org/abs/2407.08056) {__version__}.

| | |
|---|---|
{_rows(trained, weights, inputs)}

## What it achieves

Measured by palora; the test data had no part in training.

| | validation | test |
|---|---|---|
{_numbers(about)}

![The front on test data, the exported point marked](front.png)

## How to load it

{NEEDS[about["export"]]} In this folder:

```python
{load}

{names} = model(x)  # {_shape(inputs)}
```

{checked}

## Licence

Data: {_licence(trained.config.dataset)}. palora is under Apache-2.0, which does not extend to these weights: their
terms are for whoever trained them to set, within those of the data.
"""


def _rows(trained: Trained, weights: str, inputs: Tensor) -> str:
    config, position = trained.config, trained.position
    options = ", ".join(f"{key} = {value}" for key, value in config.method_options.items() if value is not None)
    values = f"in {inputs.min():.4g} … {inputs.max():.4g} in a few samples"
    rows = {
        "preference": weights,
        "model": _call(config.model, config.model_options),
        "trained by": f"{methods.get(config.method).summary}" + (f" ({options})" if options else ""),
        "recipe": f"{config.recipe}, seed {config.seed}, epoch {position['epoch']} of {config.epochs}, "
        f"{trained.checkpoint} checkpoint",
        "data": trained.parts.dataset.note,
        "input": f"`x`, {_shape(inputs)}, {values}; as the data set gives it",
        **{f"output {task.name}": _output(task) for task in trained.parts.dataset.tasks},
    }
    return "\n".join(f"| {name} | {_cell(text)} |" for name, text in rows.items())


def _numbers(about: dict[str, Any]) -> str:
    rows = [(_cell(name), *(about[split][name] for split in ("validation", "test"))) for name in about["validation"]]
    return "\n".join(f"| {name} | {_number(first)} | {_number(second)} |" for name, first, second in rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _call(name: str, options: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"


def _shape(inputs: Tensor) -> str:
    sizes = ", ".join(["n", *map(str, inputs.shape[1:])])
    return f"{str(inputs.dtype).removeprefix('torch.')} ({sizes}{',' if inputs.dim() == 1 else ''})"


def _output(task: TaskSpec) -> str:
    if task.loss == "cross_entropy":
        return f"scores of {task.outputs} classes, before the softmax (trained with cross-entropy)"
    if task.loss == "nll":
        return f"log-probabilities of {task.outputs} classes"
    return f"{task.outputs} {'value' if task.outputs == 1 else 'values'}, raw (trained with {task.loss})"


def _licence(dataset: str) -> str:
    return next((f"{row.name}, {row.licence}" for row in data.describe() if row.name == dataset), dataset)


def _identifier(task: str) -> str:
    """A task's name as that of a variable."""
    text = "".join(letter if letter.isalnum() else "_" for letter in task)
    return text if text.isidentifier() else f"task_{text}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
