"""What was adapted, what was not and why, with numbers of parameters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from palora.layers.adapter import Adapter
from palora.layers.inside import inside, named_inside
from palora.layers.ray_layer import RayLayer
from palora.layers.refusals import adaptable


@dataclass(frozen=True)
class LayerSummary:
    """One module that has parameters of its own.

    Attributes:
        name, kind: its class. parameters: without those of adapters; adapter: theirs; trainable: of both.
        reason: why it has no adapters; empty for an adapted layer.
    """

    name: str
    kind: str
    parameters: int
    trainable: int
    adapter: int
    reason: str


@dataclass(frozen=True)
class Summary:
    """What `summary` found; its text is a table.

    Attributes: layers; parameters, trainable and adapter: sums over the model, a shared parameter counted once.
    """

    layers: tuple[LayerSummary, ...]
    parameters: int
    trainable: int
    adapter: int

    @property
    def adapted(self) -> tuple[LayerSummary, ...]:
        return tuple(layer for layer in self.layers if not layer.reason)

    @property
    def unadapted(self) -> tuple[LayerSummary, ...]:
        return tuple(layer for layer in self.layers if layer.reason)

    def __str__(self) -> str:
        rows = [("layer", "kind", "parameters", "adapters", "")]
        rows += [(one.name, one.kind, f"{one.parameters:,}", f"{one.adapter:,}", one.reason) for one in self.layers]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}  {why}".rstrip()
            for a, b, c, d, why in rows
        ]
        share = 100 * self.trainable / max(self.parameters + self.adapter, 1)
        lines.append(
            f"{len(self.adapted)} of {len(self.layers)} layers adapted; {self.parameters:,} parameters and "
            f"{self.adapter:,} of adapters, {self.trainable:,} of them trainable ({share:.2f} %)"
        )
        return "\n".join(lines)


def summary(model: nn.Module) -> Summary:
    """Every module with parameters of its own: adapted or not, why not, and how many parameters.

    ``print(palora.summary(model))`` shows a table. ``model``: any module, adapted or not, wrapped or not.
    """
    found = []
    for name, module in named_inside(model):
        own = dict(module.own_parameters()) if isinstance(module, Adapter) else {}
        rest = [p for key, p in module._parameters.items() if p is not None and key not in own]
        if rest or own:
            found.append(
                LayerSummary(
                    name=name or "(itself)",
                    kind=type(module).__name__,
                    parameters=sum(p.numel() for p in rest),
                    trainable=sum(p.numel() for p in (*rest, *own.values()) if p.requires_grad),
                    adapter=sum(p.numel() for p in own.values()),
                    reason="" if isinstance(module, RayLayer) else _reason(module),
                )
            )
    everything = list(inside(model).parameters())
    adapter = sum(layer.adapter for layer in found)
    return Summary(
        layers=tuple(found),
        parameters=sum(p.numel() for p in everything) - adapter,
        trainable=sum(p.numel() for p in everything if p.requires_grad),
        adapter=adapter,
    )


def _reason(module: nn.Module) -> str:
    if adaptable(module):
        return "not adapted: excluded, or not included"
    return f"not adapted: adapters are for Linear and Conv2d, not {type(module).__name__}"
