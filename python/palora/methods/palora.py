"""PaLoRA: a low-rank adapter per task, weighted by the preference (PaLoRA paper, Eq. 2 and Sec. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from palora.layers import adapt, adapter_parameters, at, merge, split
from palora.methods.balancing import Balanced, BalancedOptions
from palora.methods.base import centre, option
from palora.rays import schedules, simplex_grid
from palora_kernels.typed import Range

FAMILIES = ("lora", "dora")
SCHEDULES = ("annealed", "fixed", "dirichlet", "annealed-dirichlet")


@dataclass(frozen=True)
class PaLoRAOptions(BalancedOptions):
    """The flags of PaLoRA; the defaults are those of the MultiMNIST recipe."""

    rank: Annotated[int, Range(1, 65_536)] = option(1, "Rank r of every adapter.")
    alpha: Annotated[float, Range(-1e6, 1e6)] = option(1.0, "Scale: adapters are multiplied by alpha/rank.")
    rays: Annotated[int, Range(1, 1024)] = option(5, "Rays (preferences) per step, M.")
    schedule: str = option("annealed", f"Where the rays lie: {', '.join(SCHEDULES)}.")
    temperature: Annotated[float, Range(0, 1e6, above=True)] | None = option(
        None,
        "Annealing temperature Q (default 5; 1 for the fixed schedule).",
        only={"schedule": ("annealed", "fixed")},
    )
    exponent: str = option(
        "product", "Annealing exponent: product (Q·τ) or quotient (τ/Q).", only={"schedule": ("annealed",)}
    )
    p: Annotated[float, Range(0, 1e6)] = option(
        1.0,
        "Concentration of the Dirichlet schedules.",
        only={"schedule": ("dirichlet", "annealed-dirichlet")},
    )
    form: str = option("loralib", "Adapters of convolutions: loralib or matricised.")

    family: str = option("lora", "Low-rank family: lora, or dora (magnitude and direction apart).")
    freeze_base: bool = option(False, "Train the adapters alone, on weights that stay (what --expand does).")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.family not in FAMILIES:
            raise ValueError(f"`family` should be one of {', '.join(FAMILIES)}. Found {self.family!r}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"`schedule` should be one of {', '.join(SCHEDULES)}. Found {self.schedule!r}.")


class PaLoRA(Balanced):
    """Train W and all adapters together on the M rays of a schedule: the sum over rays of Σ_t λ_mt L_mt, perhaps
    balanced (:class:`palora.methods.balancing.Balanced`)."""

    name = "palora"
    summary = "low-rank adapters: one model that holds the whole front"
    Options = PaLoRAOptions

    def __init__(self, tasks: int, options: PaLoRAOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.schedule = make_schedule(tasks, self.options, seed)

    def adapt(self, model: nn.Module) -> nn.Module:
        options = self.options
        return adapt(
            model,
            self.tasks,
            options.rank,
            alpha=options.alpha,
            form=options.form,
            train_base=not options.freeze_base,
            family=options.family,
        )

    def plain(self, model: nn.Module) -> nn.Module:
        return merge(model, centre(self.tasks)[0])

    def forward(self, model: nn.Module, inputs: Tensor, rays: Tensor) -> Sequence[Tensor]:
        with at(model, rays):
            return split(model(inputs), len(rays))

    def rays(self, tau: float) -> Tensor:
        return self.schedule(tau)

    def evaluation_rays(self, divisions: int) -> Tensor:
        return simplex_grid(self.tasks, divisions)

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """The base at `lr`, the adapters at T·`lr`: λ lets each task's gradient through at 1/T on average."""
        adapters = [p for p in adapter_parameters(model) if p.requires_grad]
        known = {id(p) for p in adapters}
        base = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups = [{"params": base, "lr": lr}, {"params": adapters, "lr": self.tasks * lr}]
        return [group for group in groups if group["params"]]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.schedule.load_state_dict(state["schedule"])


def make_schedule(tasks: int, options: PaLoRAOptions, seed: int) -> Any:
    """The schedule that `options` name; the random ones draw from a generator of their own."""
    M, Q = options.rays, options.temperature
    if options.schedule == "annealed":
        return schedules.Annealed(tasks, M, temperature=5.0 if Q is None else Q, exponent=options.exponent)
    if options.schedule == "fixed":
        return schedules.Fixed(tasks, M, temperature=1.0 if Q is None else Q)
    generator = torch.Generator().manual_seed(seed)
    if options.schedule == "dirichlet":
        return schedules.Dirichlet(tasks, M, p=options.p, generator=generator)
    return schedules.AnnealedDirichlet(tasks, M, p=options.p, generator=generator)
