"""Kernels for layers whose weight depends on a preference: ``y_m = (W + sum_t lam[m, t] * D_t) x`` for M rays at once.

The story, from the definition outwards:

- ``reference``: what every op computes, as a loop over rays in plain PyTorch;
- ``call``, ``factors``: one call of an op, low-rank or dense, as every plan gets it;
- ``eager/``, ``native/``, ``triton/``: the backends, each with plans made of a forward and a backward;
- ``plans``: which plan serves which shape; ``implementations``: where its functions are, and what all have in common;
- ``library``, ``gradients``: the ops as the dispatcher, autograd and ``torch.compile`` see them;
- ``functional``: the public functions: validation, dtypes, choice of backend;
- ``verify/``: what shows that all this is right.

This package knows nothing of modules or training: it needs torch and numpy only, and never imports ``palora``.
"""

from __future__ import annotations

from palora_kernels import watching as _watching  # noqa: F401  (registers)
from palora_kernels.backends import backends
from palora_kernels.functional import conv2d, conv2d_delta, linear, linear_delta, merge
from palora_kernels.plans import force as force_plan
from palora_kernels.pooling import max_pool_relu

__all__ = ["backends", "conv2d", "conv2d_delta", "force_plan", "linear", "linear_delta", "max_pool_relu", "merge"]
