"""Triton kernels for CUDA and ROCm: M rays in one launch.

- ``linear/``, ``conv/``, ``merge/`` and ``norm``: kernels with their launchers, and the plans made of them;
- ``launching/``: what all of them need to choose a tile, build arguments, start a kernel and do it again.

In comes a `palora_kernels.call.Call`, out go tensors. `palora_kernels.verify` verifies the kernels. Importing this
package does not import triton; its files do, except `launching.availability`.
"""
