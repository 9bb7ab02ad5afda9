"""The contract between a method and the training loop.

A step of the loop reads, for every method alike:

    rays = method.rays(tau)                            # (M, T)
    outputs = method.forward(model, inputs, rays)      # T tensors (M, n, …), hence losses (M, T)
    method.backward(model, losses, rays)               # fills .grad
    optimiser.step()
    method.after_step(losses, rays)                    # for methods that keep a history

so a method says which preferences to visit, how the model answers for each, and what is minimised. It sees
rays, losses and the model; never the data set, the optimiser or the command line.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from palora_kernels.typed import check_fields


@dataclasses.dataclass(frozen=True)
class Options:
    """What the options of every method derive from: a field is what its type says, a number within its Range."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class NoOptions(Options):
    """The options of a method that has none."""


def option(default: Any, help: str, only: Mapping[str, Sequence[Any]] | None = None) -> Any:
    """A field of a method's options: its default, and the help of the flag it becomes.

    `only`: other option → its values under which this one does anything; elsewhere a user who gives it is told so.
    """
    return dataclasses.field(default=default, metadata={"help": help, "only": only or {}})


class Method(ABC):
    """A way to learn T tasks: one subclass, one file, one line in :mod:`palora.methods.registry`.

    To write one, set `name` and `summary`, give `Options` (a frozen dataclass whose fields, made by
    :func:`option`, become flags of ``palora train``), and define :meth:`rays` and :meth:`forward`.
    Everything else has a default. Override

    * :meth:`adapt` to change or wrap the model: adapters, weight ensembles, hypernetworks;
    * :meth:`objective` if the loss is another function of the (M, T) losses; where it is more than a sum of
      one term per ray (a regulariser between rays), set ``couples_rays = True``: chunks of rays rely on it;
    * :meth:`backward` if the update needs more than the gradient of a scalar: norms of single-task
      gradients, aggregated gradients. It is called while the graph of the losses is alive;
    * `rays_per_pass` if a pass must hold only so many rays (1: one graph per ray, so that the gradients of
      every ray and task cost M·T backward passes of a single ray);
    * :meth:`after_step`, :meth:`state_dict`, :meth:`load_state_dict` if anything changes during training;
    * `capturable` if a step can be replayed from a CUDA graph.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Options: ClassVar[type] = NoOptions
    couples_rays: bool = False
    """Whether :meth:`objective` is anything else than a sum of one term per ray."""
    rays_per_pass: int | None = None
    """The most rays that one pass may hold; None: all of them."""
    capturable: bool = False
    """Whether :meth:`forward` and :meth:`backward` do the same on the device in every step: they read no value on the
    host, take no tensor from it and change nothing but ``.grad``, and :meth:`after_step` does nothing. The rays may
    follow from anything. A subclass that does more says False again."""

    def __init__(self, tasks: int, options: Any = None, seed: int = 0) -> None:
        """`tasks`: T; `options`: an instance of `Options`, None for the defaults; `seed`: for random rays."""
        self.tasks = tasks
        self.options: Any = self.Options() if options is None else options
        self.seed = seed

    # What the model is

    def adapt(self, model: nn.Module) -> nn.Module:
        """Make of a plain model with T outputs the module that is trained, in place or anew."""
        return model

    @abstractmethod
    def forward(self, model: nn.Module, inputs: Tensor, rays: Tensor) -> Sequence[Tensor]:
        """Answer `inputs` (n, …) for `rays` (M, T): T outputs, each (M, n, …)."""

    def plain(self, model: nn.Module) -> nn.Module:
        """The one model without preferences that a trained `model` amounts to, for a method that starts from it.

        Here the model itself, which is right where :meth:`adapt` leaves the structure as it was.
        """
        return model

    # Which preferences it visits

    @abstractmethod
    def rays(self, tau: float) -> Tensor:
        """The (M, T) rays of a step; `tau` in (0, 1] is the fraction of all steps done once it is over."""

    def evaluation_rays(self, divisions: int) -> Tensor:
        """The (K, T) rays to evaluate: a grid if the model holds a front, else (the default) its one ray."""
        return centre(self.tasks)

    # What is minimised

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        """The scalar to minimise, from `losses` and `rays` (M, T): here Σ_m Σ_t λ_mt L_mt.

        It may be called more than once a step, and with some of the rays only unless `couples_rays`, so it
        must not change the method's state: :meth:`after_step` is the place for that.
        """
        return (rays * losses).sum()

    def backward(self, model: nn.Module, losses: Tensor, rays: Tensor) -> None:
        """Add this step's gradients to ``.grad``, given `losses` (M, T) with their graph."""
        self.objective(losses, rays).backward()

    def backward_weighted(self, model: nn.Module, losses: Tensor, rays: Tensor, factors: Tensor) -> None:
        """Add Σ_mt factors_mt ∇L_mt to ``.grad``: in place of :meth:`backward` where the objective couples rays
        that do not fit in one pass.

        `losses`, `rays` and `factors` (m, T) are those of a group; `factors` is the derivative of
        :meth:`objective` in the losses, known from a pass without a graph. A class that overrides
        :meth:`backward` and couples rays has to override this too.
        """
        (factors * losses).sum().backward()

    def after_step(self, losses: Tensor, rays: Tensor) -> None:  # noqa: B027  (a hook: nothing by default)
        """Called once a step, after the optimiser, with all (M, T) losses, detached."""

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """The optimiser's parameter groups; here every trainable parameter at the base learning rate."""
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}]

    # What a resumed run needs

    def state_dict(self) -> dict[str, Any]:
        """Whatever changes during training and is not in the model: tensors, numbers, strings, containers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over what :meth:`state_dict` gave."""


def centre(tasks: int) -> Tensor:
    """The one ray of a method without preferences: (1/T, …, 1/T), shape (1, T)."""
    return torch.full((1, tasks), 1.0 / tasks)
