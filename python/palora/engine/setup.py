"""From a configuration to the things of a run: data, method, model, device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from palora import data, methods, models
from palora.data import Dataset
from palora.engine.config import RunConfig
from palora.engine.grids import check_against_tasks
from palora.engine.memory import keep_freed_memory
from palora.engine.rng import seed_everything
from palora.errors import PaloraError
from palora.methods import Method


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    dataset: Dataset
    method: Method
    model: nn.Module
    device: torch.device
    channels_last: bool
    """Whether 4-D inputs and weights are kept in the NHWC memory format."""

    def place(self, inputs: Tensor) -> Tensor:
        """A batch on the device, in the memory format of the model."""
        if self.channels_last and inputs.dim() == 4:
            inputs = ready(inputs, self.device)
            return inputs.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        return self.move(inputs)

    def move(self, tensor: Tensor) -> Tensor:
        """Targets or rays on the device."""
        return ready(tensor, self.device).to(self.device, non_blocking=True)


def ready(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` in memory from which a copy to `device` goes on by itself: pinned, where it has to leave the host.

    PyTorch gives such memory to nobody else before the copies from it are done.
    """
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def assemble(config: RunConfig, make_model: Callable[[], nn.Module] | None = None) -> Parts:
    """Load the data, seed all generators, build the model and let the method adapt it.

    `make_model` replaces the model that `config` names. Raises PaloraError or ValueError for whatever
    `config` asks for that does not exist.
    """
    pick_device(config.device)  # a device that is not there is said before the data are read
    return assemble_on(config, load_data(config), make_model)


def assemble_on(config: RunConfig, dataset: Dataset, make_model: Callable[[], nn.Module] | None = None) -> Parts:
    """:func:`assemble`, on data that are there."""
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    method = methods.build(config.method, len(dataset.tasks), config.method_options, config.seed)
    check_against_tasks(method, config)
    seed_everything(config.seed)
    model = make_model() if make_model else models.build(config.model, **config.model_options)
    model = method.adapt(model).to(device)
    channels_last = device.type in ("cpu", "cuda") and any(isinstance(m, nn.Conv2d) for m in model.modules())
    if channels_last:
        for parameter in model.parameters():
            if parameter.dim() == 4:  # an ensemble's kernels have a dimension more, which no such format has
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False  # its choice of algorithm would differ from run to run
        torch.backends.cudnn.deterministic = True
    return Parts(dataset, method, model, device, channels_last)


def load_data(config: RunConfig) -> Dataset:
    """The data set of `config`, each split cut to `config.limit` samples."""
    dataset = data.load(config.dataset, folder=config.data, seed=config.data_seed, **config.dataset_options)
    if config.limit is None:
        return dataset
    splits = (dataset.train, dataset.validation, dataset.test)
    train, validation, test = (split.take(min(config.limit, len(split))) for split in splits)
    note = f"{dataset.note} Cut to {config.limit} samples a split."
    return replace(dataset, train=train, validation=validation, test=test, note=note)


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA (ROCm) where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise PaloraError(f"`device` {name!r} cannot be used here ({reason}): try --device cpu.") from error
    return device
