"""Ahead-of-time compilation of every Triton kernel, and what the machine code shows. It needs no GPU.

    python -m palora_kernels.verify.aot          default configurations for sm_80 and sm_90
    python -m palora_kernels.verify.aot --all    every configuration, every target

Files

    targets    the GPUs, and how much shared memory a block may use there
    building   one variant for one target: Triton's own compiler, its cache
    sass       NVIDIA's machine code: registers, spills, tensor cores, loads, the main loop
    ptx        a miscompilation of LLVM's that shows before the machine code
    amdgcn     AMD's
    loops      instructions per tile against the floor
    gate       which findings are faults
    table      the findings in columns
"""

from palora_kernels.verify.aot.targets import TARGETS, Target

__all__ = ["TARGETS", "Target"]
