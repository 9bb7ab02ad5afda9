"""The adapted convolution, with its low-rank kernel in either of two forms."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import palora_kernels
from palora.layers.adapter import Adapter, shallow_copy
from palora.layers.routing import route

FORMS = ("matricised", "loralib")


def check_form(form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"`form` should be one of {', '.join(FORMS)}. Found {form!r}.")


def padded(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Any]:
    """Pad here what the op does not pad: modes other than zeros, and 'same' with an uneven border."""
    around = layer._reversed_padding_repeated_twice  # (left, right, top, bottom)
    if layer.padding_mode != "zeros":
        return F.pad(x, around, mode=layer.padding_mode), 0
    if layer.padding == "same" and (around[0] != around[1] or around[2] != around[3]):
        return F.pad(x, around), 0
    return x, layer.padding


class PaLoRAConv2d(Adapter, nn.Conv2d):
    """A convolution whose kernel is ``W + alpha/r * sum_t lambda_t A_t B_t`` for the active rays (PaLoRA, Eq. 2).

    Drop-in for torch.nn.Conv2d. Two readings of a low-rank kernel:

    - ``form="matricised"``: the kernel as an O x (C/groups*kh*kw) matrix of rank r:
      lora_A (T, O, r), lora_B (T, r, C/groups*kh*kw).
    - ``form="loralib"``: that of LoRA's own library and of the papers' experiments (square kernels only):
      lora_A (T, O/groups*k, r*k), lora_B (T, r*k, C*k), the product viewed as the kernel.

    Args:
        in_channels, ..., padding_mode, device, dtype: as torch.nn.Conv2d.
        tasks, rank, alpha: as PaLoRALinear.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        tasks: int,
        rank: int,
        alpha: float = 1.0,
        form: str = "matricised",
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_form(form)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,  # type: ignore[arg-type]
            stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            dilation,  # type: ignore[arg-type]
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self.install(tasks, rank, alpha, form)

    @classmethod
    def from_conv2d(
        cls, module: nn.Conv2d, tasks: int, rank: int, alpha: float = 1.0, form: str = "matricised"
    ) -> PaLoRAConv2d:
        """An adapted layer over the same weight and bias Parameters as ``module``."""
        check_form(form)
        adapted = shallow_copy(module)
        adapted.__class__ = cls
        adapted.install(tasks, rank, alpha, form)
        return adapted

    def factor_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        kh, kw = self.kernel_size
        if self.form == "matricised":
            return (self.out_channels, self.rank), (self.rank, self.in_channels // self.groups * kh * kw)
        if kh != kw:
            raise ValueError(f"`form`='loralib' needs a square kernel. Found {kh}x{kw}; use form='matricised'.")
        return (self.out_channels // self.groups * kh, self.rank * kh), (self.rank * kh, self.in_channels * kh)

    def forward(self, x: Tensor) -> Tensor:
        """x (P, C, H, W) -> (M*n, O, Ho, Wo), ray-major; at one ray also (C, H, W) -> (O, Ho, Wo)."""
        if x.dim() not in (3, 4):
            raise ValueError(f"PaLoRAConv2d expected an input of shape (P, C, H, W). Found {tuple(x.shape)}.")
        rows, rays, shared, layout = route(self, x)
        rows, padding = padded(self, rows)
        A, B = self.factors()
        y = palora_kernels.conv2d(
            rows,
            self.base_weight(),
            self.bias,
            A,
            B,
            self.scaled(rays),
            stride=self.stride,  # type: ignore[arg-type]
            padding=padding,
            dilation=self.dilation,  # type: ignore[arg-type]
            groups=self.groups,
            shared=shared,
        )
        y = self.for_hooks(y)
        return y if layout is None else layout.restored(y)
