"""An adapted weight that is read while the model runs: its shape and dtype may be, its values not.

A parent that computes with ``self.qkv.weight`` itself leaves the adapter of ``qkv`` out without a word. During a pass
such a read gets this stand-in, which answers what its dtype is and refuses to take part in a computation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from palora.layers import private
from palora.layers.refusals import UnsupportedModuleError

# The weight may stand here as the second argument, for its dtype and device; or as the first, for its shape.
_LIKE = ("to", "type_as", "view_as", "expand_as", "reshape_as")
_FRESH = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like")


class WeightRead(Tensor):
    """The weight of an adapted layer as its parent sees it during a pass."""

    layer_name: str

    @classmethod
    def of(cls, weight: nn.Parameter, name: str) -> WeightRead:
        read = Tensor._make_subclass(cls, weight, weight.requires_grad)
        read.layer_name = name
        read._is_param = True  # type: ignore[attr-defined]  # isinstance(read, nn.Parameter)
        return read  # type: ignore[no-any-return]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        with private.PlainTensors():
            if name.startswith(_FRESH) or (name in _LIKE and not isinstance(args[0], cls)):
                return func(*args, **kwargs)
            if not name.endswith("_") or name.startswith("__"):
                result = func(*args, **kwargs)
                if not _holds_tensor(result):
                    return result
        layer = next((a.layer_name for a in (*args, *kwargs.values()) if isinstance(a, cls)), "")
        error = UnsupportedModuleError(
            f"The weight of {layer!r} was read while the model ran, by {name}, so that its adapter would be ignored; "
            f"call the layer itself, or leave it unadapted with exclude=[{layer!r}] of palora.adapt."
        )
        error.module = layer
        raise error


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_tensor(item) for item in value)
    return isinstance(value, Tensor)
