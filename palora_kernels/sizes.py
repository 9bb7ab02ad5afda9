"""The integers of a call, which the choice of its plan depends on."""

from __future__ import annotations

from typing import NamedTuple

import torch

from palora_kernels.call import Call
from palora_kernels.factors import LowRank


class Sizes(NamedTuple):
    """Of a linear layer: those without a default, and ``item``. A product here is one row of x with the weight."""

    backend: str
    rays: int
    n: int  # rows of one ray
    K: int  # C/groups*kh*kw in a convolution: the multiply-adds behind one output value
    O: int
    R: int  # columns of all factors together; 0 for dense deltas
    elements: int  # T+1, or T without a common part
    shared: bool
    positions: int = 1  # Ho*Wo
    groups: int = 1
    matricised: bool = False  # the deltas of a kernel are low-rank as O x K matrices
    channels_last: bool = False  # the layout of the result
    item: int = 4  # bytes of a number
    device: str = "cpu"
    channels: int = 64  # of a group

    @staticmethod
    def of(call: Call, backend: str) -> Sizes:
        factors, x, conv, (rays, tasks) = call.factors, call.x, call.conv, call.lam.shape
        shape, P = factors.shape, x.shape[0]
        R, matricised = 0, False
        if isinstance(factors, LowRank):
            R, matricised = tasks * factors.r, factors.p == shape[0]
        n = P if call.shared else P // rays
        elements = tasks + (call.weight is not None)
        if conv is None:
            return Sizes(backend, rays, n, shape[1], shape[0], R, elements, call.shared)
        height, width = call.output_size
        return Sizes(
            backend,
            rays,
            n,
            K=shape[1] * shape[2] * shape[3],
            O=shape[0],
            R=R,
            elements=elements,
            shared=call.shared,
            positions=height * width,
            groups=conv.groups,
            matricised=matricised,
            channels_last=call.layout == torch.channels_last,
            item=x.element_size(),
            device=x.device.type,
            channels=shape[1],
        )

    @property
    def in_cpp(self) -> bool:
        """Whether the kernels of csrc/cpu serve the call; those for CUDA have fewer plans."""
        return self.backend == "native" and self.device == "cpu"
