"""Plans for CUDA devices without Triton: products by cuBLAS and cuDNN through torch, the rest in CUDA C++.

- ``ops``: the operators of ``csrc/cuda`` as functions that make their results;
- ``factors``: merging M weights in one launch, and pulling their gradients back;
- ``linear``, ``conv``: the plans behind `palora_kernels.library`.
"""
