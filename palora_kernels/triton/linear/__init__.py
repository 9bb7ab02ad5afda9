"""The Triton kernels of linear layers and the plans made of them.

In comes a `palora_kernels.call.Call`; out go Y (M*n, O) and, backward, the gradients that are needed.

- `plans` says which kernels a plan launches; `library`, `splitk_plan`, `persistent_plan` and `dense` hold those that
  take more than a few lines.
- Low-rank: `product` (Y, dX), `project` (S, U0), `weights` (dW, dA, dB, db), `rays` (a shared input's sum over rays),
  `splitk` and `splitk_sum` (few rows), `persistent` and `extend` (tensor descriptors).
- Dense deltas: `basis`, `combine` (a shared input), `basis_weights`, `basis_lam`.
- `sums` over rows, rays and columns; `reduce` adds the splits of a sum in a fixed order.
"""
