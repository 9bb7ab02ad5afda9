"""What happens between a plan and its kernels on the device.

In come a kernel, tensors and sizes; out goes a launch, once chosen and ever after repeated.

- `configs` chooses the tile of a launch by arithmetic, `tuning` and `shipped` know what was measured instead, `spills`
  which tiles a compiler spills.
- `operands` says how tensors look to kernels, `tiles` holds what the kernels share.
- `launch` starts a kernel, or writes down what would be started.
- `capture` writes down all that a plan did as a `program`, and `replay` runs it again for equal layouts.
- `availability` says whether Triton runs here at all.
"""
