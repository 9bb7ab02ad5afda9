"""Switch off the fused inference paths of torch's transformers, which read linear1.weight directly."""

from __future__ import annotations

from torch import nn

from palora.layers.ray_layer import RayLayer

_KEPT = "_palora_fast_path"


def disable(model: nn.Module) -> None:
    """On every encoder layer that holds adapters, and on the encoders around them; remembered for `restore`."""
    for module in model.modules():
        if not any(isinstance(child, RayLayer) for child in module.modules()):
            continue
        if isinstance(module, nn.TransformerEncoderLayer) and not hasattr(module, _KEPT):
            setattr(module, _KEPT, module.activation_relu_or_gelu)
            module.activation_relu_or_gelu = 0  # "neither": the layer then always takes its modular path
        elif isinstance(module, nn.TransformerEncoder) and not hasattr(module, _KEPT):
            setattr(module, _KEPT, module.use_nested_tensor)
            module.use_nested_tensor = False


def restore(model: nn.Module) -> None:
    for module in model.modules():
        if not hasattr(module, _KEPT):
            continue
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = getattr(module, _KEPT)
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = getattr(module, _KEPT)
        delattr(module, _KEPT)
