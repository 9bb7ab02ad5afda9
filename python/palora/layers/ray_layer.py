"""What every layer has whose weights depend on the ray: adapters, ensembles."""

from __future__ import annotations

from torch import Tensor, nn

from palora.layers.state import RayState


class RayLayer(nn.Module):
    """Mixin: how many entries a ray has, the state that holds the active rays, and what is left after merging."""

    weight: Tensor
    tasks: int
    rays_state: RayState | None

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
