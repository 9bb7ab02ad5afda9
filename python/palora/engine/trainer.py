"""The training loop, for every method alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from palora.data import Batches
from palora.engine import chunk_size
from palora.engine.chunking import Losses
from palora.engine.config import RunConfig
from palora.engine.expand import starting_model
from palora.engine.finite import require_finite_losses, require_finite_weights
from palora.engine.graph import Forward, Recorder, Step, recorder_for
from palora.engine.grids import grid_of
from palora.engine.interrupt import Interrupted, StopSignals
from palora.engine.losses import loss_fn
from palora.engine.pending import Pending, Taken
from palora.engine.progress import Silent
from palora.engine.run import RunFolder, step_record, validation_record
from palora.engine.setup import Parts, assemble
from palora.engine.sole_writer import sole_writer
from palora.engine.state import TrainState, load_checkpoint, save_checkpoint, set_rate
from palora.engine.validate import front_of, volume
from palora.layers.wiring import states_of
from palora.optional import need

AHEAD = 64
"""The most steps that may run before the losses of the first of them are looked at."""


def train(
    config: RunConfig,
    folder: Path | str,
    *,
    resume: bool = False,
    show: Silent | None = None,
    make_model: Callable[[], nn.Module] | None = None,
) -> RunFolder:
    """Train what `config` describes in the run folder `folder`, or go on with it (`resume`), to the last
    epoch.

    A resumed run repeats an uninterrupted one bit for bit on the same machine; one that ended before its first
    checkpoint starts anew. `show` is told what happens (see :mod:`palora.engine.progress`); `make_model` replaces the
    model that `config` names. Raises PaloraError for an occupied folder, one that another process writes or that
    cannot be written (UnwritableError), missing data, a damaged checkpoint, a loss that is not finite (Diverged), a
    missing package, and after Ctrl-C or SIGTERM (Interrupted).
    """
    need("moocore", "The validation of a run")  # said now, not after the first epoch
    show = show or Silent()
    with sole_writer(Path(folder)):
        run, remarks = RunFolder.resumable(folder, config) if resume else (RunFolder.vacant(folder), [])
        begun = resume and run.started()
        if not begun and make_model is None:
            make_model = partial(starting_model, config)
        parts = assemble(config, make_model)
        recorder = recorder_for(config, parts)
        state = initial_state(parts, config)
        if begun:
            snapshot = load_checkpoint(run.last)
            run.truncate_metrics(snapshot["metrics_size"])
            state.restore(snapshot)
        else:
            run.create(config)
            save_checkpoint(state, run.last, run.metrics_size())
        show.note(parts.dataset.note)
        for remark in remarks if begun else []:
            show.note(f"Resumed, but perhaps no longer bit for bit: {remark}.")
        with StopSignals() as stop:
            try:
                run_epochs(config, parts, state, run, stop, show, recorder)
            finally:
                show.stop()
    return run


def initial_state(parts: Parts, config: RunConfig) -> TrainState:
    """Adam on the parameter groups of the method, before the first step.

    On a GPU the learning rates lie there as tensors, captured or not, so that both do the same to the last bit.
    """
    groups = parts.method.parameter_groups(parts.model, config.lr)
    groups = [{**group, "initial_lr": group["lr"]} for group in groups]
    optimizer = torch.optim.Adam(groups, lr=config.lr, fused=parts.device.type in ("cpu", "cuda"))
    if parts.device.type == "cuda":
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=parts.device)
    return TrainState(parts.model, optimizer, parts.method)


def set_learning_rate(state: TrainState, config: RunConfig) -> float:
    """The learning rates of the epoch under way, by the recipe's milestones; returns the base rate."""
    factor = config.lr_decay ** sum(state.position.epoch >= milestone for milestone in config.lr_milestones)
    for group in state.optimizer.param_groups:
        group["lr"] = set_rate(group["lr"], group["initial_lr"] * factor)
    return config.lr * factor


def run_epochs(
    config: RunConfig,
    parts: Parts,
    state: TrainState,
    run: RunFolder,
    stop: StopSignals,
    show: Silent,
    recorder: Recorder | None,
) -> None:
    """The steps of each epoch; after it a validation on the grid of rays, its records and a checkpoint."""
    method, model, position = parts.method, parts.model, state.position
    tasks = [task.name for task in parts.dataset.tasks]
    batches = training_batches(parts, config)
    steps = config.epochs * len(batches)
    forward = forward_pass(parts, config)
    take = Step(parts, state, forward, recorder, required=config.graph == "on", note=show.note)

    def look(taken: Taken) -> None:
        require_finite_losses(taken.losses, taken.rays, tasks, taken.epoch, taken.step, run.last)
        position.advance(taken.losses)
        show.step(taken.epoch, position.mean_losses(), len(taken.rays))
        if taken.step % config.log_every == 0:
            run.append(step_record(position, taken.tau, taken.lr, taken.rays, taken.losses))

    # What reads the device in every step anyway sees no loss that was not looked at.
    pending = Pending(look, AHEAD if method.capturable else 0)

    def save(*paths: Path) -> None:
        pending.settle()
        require_finite_weights(model, position.step, run.last)
        size = run.metrics_size()
        for path in paths:
            save_checkpoint(state, path, size)

    def leave_if_stopped() -> None:
        if stop.name is not None:
            save(run.last)
            raise Interrupted(stop.name, run.path, position.step, steps)

    show.start(tasks, config.epochs, position.step, steps)
    step = position.step
    while position.epoch < config.epochs:
        epoch = position.epoch + 1
        lr = set_learning_rate(state, config)
        model.train()
        for inputs, targets in batches.epoch(position.epoch, position.batch):
            step += 1
            tau = step / steps
            rays = method.rays(tau)
            decide_chunk(config, parts, state, forward, inputs, targets, rays)
            losses = take(inputs, targets, rays)
            pending.add(Taken(epoch, step, tau, lr, rays, losses))
            if not method.capturable:
                method.after_step(losses, parts.move(rays))
            leave_if_stopped()
            if config.checkpoint_every and step % config.checkpoint_every == 0:
                save(run.last)
        pending.settle()

        record = {"kind": "epoch", "epoch": epoch, "step": position.step, "losses": position.mean_losses()}
        hypervolume, improved = None, False
        if epoch % config.validate_every == 0 or epoch == config.epochs:
            rays = grid_of(method, config)
            front = front_of(
                parts, config, parts.dataset.validation, rays, position.sweep_chunk, check=leave_if_stopped
            )
            hypervolume = volume(front, config)
            improved = position.best is None or hypervolume >= position.best
            position.best = hypervolume if improved else position.best
            record["validation"] = validation_record(front, hypervolume)
        run.append(record)
        show.epoch(epoch, position.mean_losses(), hypervolume)
        position.next_epoch()
        save(*([run.best] if improved else []), run.last)
        leave_if_stopped()


def training_batches(parts: Parts, config: RunConfig) -> Batches:
    """Shuffled by seed and epoch. A last batch of one sample is left out: it has no batch statistics."""
    split = parts.dataset.train
    lone = len(split) % config.batch == 1 and len(split) > config.batch
    return Batches(split, config.batch, seed=config.seed, drop_last=lone, augment=parts.dataset.augment)


def forward_pass(parts: Parts, config: RunConfig) -> Forward:
    """The forward pass of a step, compiled if the configuration says so."""
    per_sample = loss_fn(parts.dataset.tasks)
    bf16 = config.precision == "bf16"

    def forward(inputs: Tensor, targets: tuple[Tensor, ...], rays: Tensor) -> Tensor:
        m, n = len(rays), len(inputs)
        with torch.autocast(parts.device.type, torch.bfloat16, enabled=bf16):
            outputs = parts.method.forward(parts.model, inputs, rays)
        rows = [output.flatten(0, 1) for output in outputs]
        expanded = [target.repeat(m, *(1,) * (target.dim() - 1)) for target in targets]
        return per_sample(rows, expanded).unflatten(0, (m, n)).mean(1)

    if not config.compile:
        return forward
    for state in states_of(parts.model):
        if state is not None:
            state.told_untried = True  # models of the registry are compared with a loop over rays by the tests
    return torch.compile(forward)


def losses_of(parts: Parts, forward: Forward, inputs: Tensor, targets: tuple[Tensor, ...]) -> Losses:
    """Rays (m, T) → mean losses (m, T) of one batch, which is put where the model is."""
    inputs = parts.place(inputs)
    targets = tuple(parts.move(target) for target in targets)
    return lambda rays: forward(inputs, targets, rays)


def decide_chunk(
    config: RunConfig,
    parts: Parts,
    state: TrainState,
    forward: Forward,
    inputs: Tensor,
    targets: tuple[Tensor, ...],
    rays: Tensor,
) -> None:
    """Settle how many rays go into a pass: at the first step, and anew where the setting was changed."""
    position = state.position
    if position.chunk_setting == config.ray_chunk:
        return
    sizes = chunk_size.fixed(config.ray_chunk)
    if sizes is None:
        losses_at = losses_of(parts, forward, inputs, targets)
        sizes = chunk_size.estimate(parts.model, losses_at, parts.move(rays), parts.device)
    position.chunk, position.sweep_chunk, position.chunk_setting = sizes.train, sizes.sweep, config.ray_chunk
