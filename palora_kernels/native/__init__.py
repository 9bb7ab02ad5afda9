"""Plans on the C++ extension: the same algorithms as ``eager``, with their skinny parts fused into single passes.

- ``build``: how the extension is compiled; ``loading``: where a built one is found, or built on first use;
- ``linear``, ``conv``: the plans behind `palora_kernels.library`, thin callers of the operators ``palora_native::*``.

The C++ is in ``csrc/``: ``register.cpp`` lists the operators.
"""
