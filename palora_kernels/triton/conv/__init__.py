"""The Triton kernels of convolutions and the plans made of them, all on NHWC maps.

In comes a `palora_kernels.call.Call`; out go Y (M*n, O, Ho, Wo) and, backward, the gradients that are needed.

- `plans` says which kernels a plan launches, `shapes` holds the integers of a convolution and chooses tiles.
- `gemm` launches `gemm_kernel`, forward and the gradient of x, for all rays at once; `kernel_gradient` is its pair.
- `library` and `rays` leave the convolutions to cuDNN or MIOpen, once for all rays or ray by ray.
- `adapters` adds (S o Lam) A^T to a map that carries S; `combine` mixes the maps of W and the deltas into rays.
"""
