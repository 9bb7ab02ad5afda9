"""What every layer has whose weights depend on the ray: adapters, ensembles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palora.layers.layouts import Where
from palora.layers.reads import WeightRead
from palora.layers.state import RayState

# What `connect` and the layers themselves keep beside parameters; a merged layer has none of it.
RAY_ATTRIBUTES = ("tasks", "rays_state", "rays_name", "row_layout")


class RayLayer(nn.Module):
    """Mixin: how many entries a ray has, the state that holds the active rays, and what is left after merging.

    Attributes:
        rays_name: the layer's name in the model, for messages.
        row_layout: where its input has the batch, if `adapt` was told that it is not ray-major in dimension 0.
    """

    tasks: int
    rays_state: RayState | None
    rays_name: str = ""
    row_layout: Where | None = None

    @property
    def weight(self) -> Any:
        """The common weight. To others, while the model runs, only what it is like: see `palora.layers.reads`."""
        found = self.__dict__.get("weight")
        if found is None:
            found = self._parameters["weight"] if "weight" in self._parameters else self.__getattr__("weight")
        state: RayState | None = self.__dict__.get("rays_state")
        if state is None or torch.compiler.is_compiling() or not isinstance(found, nn.Parameter):
            return found
        slot = state.current()
        return found if slot is None or slot.depth == 0 else WeightRead.of(found, self.rays_name)

    @weight.setter
    def weight(self, value: Any) -> None:
        self.__dict__["weight"] = value  # what is no Parameter: pruned or normalised weights

    @weight.deleter
    def weight(self) -> None:
        self.__dict__.pop("weight")

    def base_weight(self) -> Tensor:
        """The weight for the layer's own use."""
        found = self._parameters.get("weight")
        return self.weight if found is None else found  # type: ignore[no-any-return]

    def for_hooks(self, y: Tensor) -> Tensor:
        """The output for the hooks of TorchJD's Gramian engine, with a node of C++ in the graph: the engine looks edges
        up, and edges to an op's node in Python, as get_gradient_edge gives them, are never equal. Not for others: FSDP2
        does without views, as changing one in place drops its hooks."""
        if any(type(hook).__module__.startswith("torchjd.") for hook in self._forward_hooks.values()):
            return y.view_as(y)
        return y

    def merged(self, ray: Tensor) -> nn.Module:
        """The plain torch module for one ray (T,); it takes this layer's place, and may be this object."""
        raise NotImplementedError
