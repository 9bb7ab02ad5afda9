"""Catalogue entries at the edges: every launch of every linear plan where sizes are 1, odd, or multiples of four.

An argument equal to 1 becomes a constant of the compilation, and one that 16 does not divide may cost wide loads: these
compile to other code than the large round sizes that the files of the kernels list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from palora_kernels.call import Call, Needs
from palora_kernels.factors import Dense, LowRank
from palora_kernels.plans import ALGORITHMS
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import Launch, recording
from palora_kernels.triton.linear.plans import PLANS
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variant

_WITHOUT_PRODUCTS = ("linear_over_rays", "linear_bias", "linear_lam", "add_splits")
_EVERYTHING = Needs(x=True, weight=True, bias=True, factors=True, lam=True)


def _launches(M: int, n: int, K: int, O: int, T: int, r: int, shared: bool) -> list[Launch]:
    x = torch.empty(n if shared else M * n, K, dtype=torch.bfloat16, device=META)
    weight, bias, lam = x.new_empty(O, K), x.new_empty(M, O), torch.empty(M, T, device=META)
    A, B, D, grad = x.new_empty(T, O, r), x.new_empty(T, r, K), x.new_empty(T, O, K), x.new_empty(M * n, O)
    with recording() as launches:
        for op, factors in (("linear", LowRank(A, B, (O, K))), ("linear_delta", Dense(D))):
            call = Call(x, weight, bias, factors, lam, shared, 2)
            for algorithm in ALGORITHMS[op]:
                forward, backward = PLANS[algorithm]
                _, S = forward(call)
                backward(replace(call, bias=None), grad, S, _EVERYTHING)
    return launches


def variants() -> Iterator[Variant]:
    """One entry for each kernel and each set of constants among the launches."""
    edges = {
        "of ones": (1, 1, 1, 1, 1, 1),
        "of rays of one row": (3, 1, 1, 1, 1, 1),
        "of odd sizes": (3, 5, 7, 9, 3, 3),
        "of multiples of four": (5, 256, 468, 52, 2, 1),
    }
    for label, sizes in edges.items():
        seen: set[str] = set()
        for shared in (False, True):
            with configs.assume(configs.TARGETS["gfx942"]):  # its tiles fit every target
                launches = _launches(*sizes, shared)
            for launch in launches:
                identity = f"{launch.name} {launch.signature()} {launch.constants()}"
                if identity in seen or not launch.name.startswith(("linear_", "add_splits")):
                    continue
                seen.add(identity)
                dots = "none" if launch.name in _WITHOUT_PRODUCTS else "tensor"
                yield variant(launch, f"{launch.name} {label} {len(seen)}", default=False, dots=dots, targets=None)
