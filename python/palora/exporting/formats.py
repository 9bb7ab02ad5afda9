"""The formats of a plain model: each writes its files and says how to load them."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from palora.errors import PaloraError
from palora.exporting.source import source
from palora.optional import need


@dataclass(frozen=True)
class Written:
    """The names of the files, the first the one to load, and the Python that loads it."""

    files: tuple[str, ...]
    load: str
    """In the folder of the files: statements after which ``model(*inputs)`` gives the outputs."""


@dataclass(frozen=True)
class Plain:
    """What is written: a model of plain torch modules on the CPU, in evaluation mode."""

    model: nn.Module
    example: tuple[Tensor, ...] | None
    """Arguments, at least two rows each; None where nothing is to be traced."""
    title: str
    outputs: tuple[str, ...] = ()
    """Names of the outputs, if they are known."""


def state_dict(plain: Plain, file: Path) -> Written:
    """torch.save of the weights, and a Python file of the same name with the architecture."""
    code = file.with_name(re.sub(r"\W|^(?=\d)", "_", file.stem) + ".py")  # a name that can be imported
    text = source(plain.model, plain.title, file.name)
    torch.save({name: tensor.contiguous() for name, tensor in plain.model.state_dict().items()}, file)
    code.write_text(text, encoding="utf-8")
    load = (
        f"import torch\nfrom {code.stem} import Model\n\n"
        f'model = Model()\nmodel.load_state_dict(torch.load("{file.name}", weights_only=True))\nmodel.eval()'
    )
    return Written((file.name, code.name), load)


def torch_export(plain: Plain, file: Path) -> Written:
    """A program of torch.export: the graph and the weights in one file, for any number of rows."""
    example = _example(plain, "torch-export")
    rows = tuple({0: torch.export.Dim.DYNAMIC} for _ in example)
    try:
        program = torch.export.export(plain.model, example, dynamic_shapes=rows)
        torch.export.save(program, file)
    except Exception as error:  # torch.export raises many kinds
        raise PaloraError(f"torch.export cannot write {plain.title}: {_first_line(error)}.") from error
    return Written((file.name,), f'import torch\n\nmodel = torch.export.load("{file.name}").module()')


def onnx(plain: Plain, file: Path) -> Written:
    """ONNX by torch.onnx's exporter, for any number of rows."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "The format 'onnx'")
    example = _example(plain, "onnx")
    inputs = ["x"] if len(example) == 1 else [f"x{i}" for i in range(len(example))]
    rows = tuple({0: torch.export.Dim.DYNAMIC} for _ in example)
    try:
        with _quiet():
            torch.onnx.export(
                plain.model,
                example,
                file,
                input_names=inputs,
                output_names=list(plain.outputs) or None,
                dynamic_shapes=rows,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise PaloraError(f"torch.onnx cannot write {plain.title}: {_first_line(error)}.") from error
    load = (
        f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file.name}")\n\n\n'
        "def model(*inputs):\n"
        "    names = [x.name for x in session.get_inputs()]\n"
        "    return session.run(None, dict(zip(names, (x.numpy() for x in inputs))))"
    )
    return Written((file.name,), load)


FORMATS: dict[str, tuple[str, Callable[[Plain, Path], Written]]] = {
    "state-dict": (".pt", state_dict),
    "torch-export": (".pt2", torch_export),
    "onnx": (".onnx", onnx),
}
"""Name → suffix, and what writes it. "adapters" is not among them: it keeps the whole front, and palora loads it."""


def _example(plain: Plain, name: str) -> tuple[Tensor, ...]:
    if plain.example is None:
        raise ValueError(f"`example` should be inputs of the model for the format {name!r}. Found None.")
    return plain.example


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself: its steps, its own deprecations, packages that it does not need."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300].rstrip(". ")
