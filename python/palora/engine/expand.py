"""Where a model's weights come from when a run does not start from scratch: another run, or a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from palora import methods, models
from palora.data.folder import data_root
from palora.engine.config import RunConfig
from palora.engine.run import RunFolder
from palora.engine.state import load_checkpoint, load_weights
from palora.errors import PaloraError


def starting_model(config: RunConfig) -> nn.Module:
    """The model that `config` names, with the weights of its run (`expand`) or file (`pretrained`).

    It is made once, when a run begins; its checkpoints hold everything from then on. Raises PaloraError for a run
    or file that is missing, of another model, or of a method that does not leave one plain model.
    """
    model = models.build(config.model, **config.model_options)
    if config.expand is not None:
        model.load_state_dict(weights_of(config, Path(config.expand), model))
    elif config.pretrained is not None:
        load = getattr(model, "load_pretrained", None)
        if load is None:
            raise PaloraError(f"The model '{config.model}' of recipe '{config.recipe}' reads no pretrained weights.")
        load(find(config.pretrained, config.data))
    return model


def weights_of(config: RunConfig, folder: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of `model` as the run in `folder` left it."""
    source = RunConfig.read(folder / "config.json")
    for name in ("model", "model_options"):
        old, new = source.to_dict()[name], config.to_dict()[name]
        if old != new:
            raise PaloraError(f"{folder} trained a model with {name} = {old}; this recipe has {new}.")
    trained = models.build(source.model, **source.model_options)
    tasks = len(trained.heads)
    method = methods.build(source.method, tasks, source.method_options, source.seed)
    trained_as = method.adapt(trained)
    last = RunFolder(folder).last
    load_weights(trained_as, load_checkpoint(last)["model"], f"The checkpoint {last}")
    plain = method.plain(trained_as)
    if type(plain) is not type(model):
        raise PaloraError(
            f"{folder} was trained by '{source.method}', which does not leave one plain model to expand. Take a run of "
            "a method with one model, such as ls."
        )
    found = plain.state_dict()  # a method may have added to the model, such as learnt loss weights
    return {name: found[name] for name in model.state_dict()}


def find(file: str, data: str | None) -> Path:
    """A file of weights: a path, or a name in <data root>/pretrained."""
    candidates = (Path(file).expanduser(), data_root(data) / "pretrained" / file)
    for path in candidates:
        if path.is_file():
            return path
    raise PaloraError(f"There are no weights {file}: looked for {candidates[0]} and {candidates[1]}.")


def final_lr(source: RunConfig) -> float:
    """The learning rate of a run's last epoch: what an expansion goes on with."""
    return source.lr * source.lr_decay ** sum(source.epochs - 1 >= milestone for milestone in source.lr_milestones)
