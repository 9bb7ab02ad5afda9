"""What every layer has whose weights depend on the ray: adapters, ensembles."""

from __future__ import annotations

from torch import Tensor, nn

from palora.layers.state import RayState


class RayLayer(nn.Module):
    """Mixin: how many entries a ray has, the state that holds the active rays, and what is left after merging."""

    weight: Tensor
    tasks: int
    rays_state: RayState | None

    def merged(self, ray: Tensor) -> nn.Module:
        """The plain torch module for one ray (T,); it takes this layer's place, and may be this object."""
        raise NotImplementedError
