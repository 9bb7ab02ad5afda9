"""`palora.export`: one preference of a model as files that need no palora."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palora.errors import PaloraError
from palora.exporting.checking import check
from palora.exporting.formats import FORMATS, Plain, Written
from palora.files import writing
from palora.layers import adapted_layers, at, load_adapters, merge, save_adapters
from palora.suggest import unknown

ADAPTERS = "adapters"


def names() -> list[str]:
    """The names of all formats."""
    return [*FORMATS, ADAPTERS]


def check_format(name: str) -> None:
    """PaloraError, with the close names, for a format that there is not."""
    if name not in names():
        raise PaloraError(unknown("format", name, names()))


def export(
    model: nn.Module,
    ray: Any,
    path: str | os.PathLike[str],
    format: str = "state-dict",
    example: Tensor | Sequence[Tensor] | None = None,
    *,
    force: bool = False,
) -> list[Path]:
    """Write the model at one preference as files that need no palora, and check them.

    What was written is loaded again by a process in which palora cannot be imported, and has to answer `example` as the
    model does at `ray`, to rounding. The files appear only after that.

    Args:
        model: an adapted model, in any mode; it is not changed, and is exported for evaluation.
        ray: (T,), the preference.
        path: the file to write.
        format: "state-dict": the weights (torch.save), and beside them a Python file with the architecture in plain
            PyTorch; "torch-export": a program of torch.export; "onnx": ONNX, which needs the packages onnx, onnxscript
            and onnxruntime; "adapters": the whole front (:func:`palora.save_adapters` with its base), which palora
            loads again: `ray` is not used.
        example: the model's argument, or a list of them: tensors with n >= 2 rows. Needed for all but "adapters".
        force: replace files that are there.

    Returns the files that were written, `path` first. Raises PaloraError for files that are there already, an unknown
    format, a missing package, and a model that cannot be written so, with the reason; ValueError for a bad `ray` or
    `example`.
    """
    check_format(format)
    path = Path(path)
    with beside(path.parent) as folder:
        if format == ADAPTERS:
            write_adapters(model, folder / path.name)
            files: tuple[str, ...] = (path.name,)
        else:
            inputs = _inputs(example)
            expected = _answers(model, ray, inputs)
            plain = Plain(plain_module(merge(model, ray)), inputs, type(model).__name__)
            files = write(plain, expected, folder, path.name, format)[0].files
        return move(folder, files, path.parent, force)


def write(plain: Plain, expected: Sequence[Tensor], folder: Path, name: str, format: str) -> tuple[Written, float]:
    """Write `plain` into `folder` and check it; returns also the largest difference from `expected`."""
    if plain.example is None:
        raise ValueError("`example` should be inputs of the model, to compare answers. Found None.")
    written = FORMATS[format][1](plain, folder / name)
    return written, check(folder, written.load, plain.example, expected)


def write_adapters(model: nn.Module, file: Path) -> None:
    """The adapters and all of the base, frozen or not; read back and compared bit for bit."""
    if not adapted_layers(model):
        raise PaloraError("The format 'adapters' is for models with adapters, and this one has none: choose another.")
    everything = copy.deepcopy(model).cpu()
    for parameter in everything.parameters():
        parameter.requires_grad_(True)  # what is frozen is written, too: the file has to stand alone
    save_adapters(everything, file, base=True)
    again = copy.deepcopy(everything)
    with torch.no_grad():
        for tensor in (*again.parameters(), *again.buffers()):
            tensor.zero_()
    load_adapters(again, file)
    wanted, found = everything.state_dict(), again.state_dict()
    wrong = [name for name, tensor in wanted.items() if not torch.equal(tensor, found[name])]
    if wrong:
        raise PaloraError(f"What was written is not what was read back: {wrong[0]} differs.")


def plain_module(model: nn.Module) -> nn.Module:
    """On the CPU, for evaluation, every tensor in the usual memory format, no gradients."""
    model = model.cpu().eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous(memory_format=torch.contiguous_format)
        parameter.requires_grad_(False)
    return model


def flat(outputs: Any) -> list[Tensor]:
    """The tensors of nested lists, tuples and mappings, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [tensor for part in parts for tensor in flat(part)]


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, so that what is finished need only be renamed; gone afterwards."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".export-"))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def move(folder: Path, files: Sequence[str], target: Path, force: bool) -> list[Path]:
    """Rename `files` of `folder` into `target`; PaloraError, and nothing moved, if any is there and not `force`."""
    there = [target / name for name in files if (target / name).exists()]
    if there and not force:
        raise PaloraError(f"{there[0]} exists already: choose another path, or pass force=True to replace it.")
    for name in files:
        os.replace(folder / name, target / name)
    return [target / name for name in files]


def _inputs(example: Tensor | Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    inputs = (example,) if isinstance(example, Tensor) else tuple(example or ())
    if not inputs or not all(isinstance(x, Tensor) and x.dim() and len(x) >= 2 for x in inputs):
        raise ValueError(
            "`example` should be a tensor with two rows or more, or several, as the model takes them. Found "
            f"{[tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in inputs] or None}."
        )
    return tuple(x.detach().cpu() for x in inputs)


def _answers(model: nn.Module, ray: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What the adapted model itself says at `ray`."""
    replica = copy.deepcopy(model).cpu().eval()
    with torch.no_grad(), at(replica, ray):
        return flat(replica(*inputs))
