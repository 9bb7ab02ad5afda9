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
        """The output as forward hooks see it, with a node of C++ in the graph: edges to an op's node in Python, as
        torch.autograd.graph.get_gradient_edge gives them, are never equal, which TorchJD's Gramian engine needs."""
        return y.view_as(y) if self._forward_hooks else y

    def merged(self, ray: Tensor) -> nn.Module:
        """The plain torch module for one ray (T,); it takes this layer's place, and may be this object."""
        raise NotImplementedError
