"""The integers of a call, which the choice of its plan depends on."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from palora_kernels.call import Call
from palora_kernels.factors import LowRank


@dataclass(frozen=True)
class Sizes:
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
        factors, x = call.factors, call.x
        low_rank = factors if isinstance(factors, LowRank) else None
        shape = factors.shape
        positions = 1
        if call.conv is not None:
            height, width = call.output_size
            positions = height * width
        return Sizes(
            backend=backend,
            rays=call.rays,
            n=call.n,
            K=prod(shape[1:]),
            O=shape[0],
            R=0 if low_rank is None else low_rank.columns,
            elements=factors.tasks + (call.weight is not None),
            shared=call.shared,
            positions=positions,
            groups=1 if call.conv is None else call.conv.groups,
            matricised=low_rank is not None and low_rank.p == shape[0],
            channels_last=call.layout == torch.channels_last,
            item=x.element_size(),
            device=x.device.type,
            channels=shape[1],
        )

    @property
    def in_cpp(self) -> bool:
        """Whether the kernels of csrc/cpu serve the call; those for CUDA have fewer plans."""
        return self.backend == "native" and self.device == "cpu"
