"""Compile one variant for one target and read the result."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from palora_kernels.triton.launching.launch import FP_FUSION
from palora_kernels.verify.aot import amdgcn, ir, loops, ptx, sass
from palora_kernels.verify.aot.targets import Target
from palora_kernels.verify.catalog import Variant


@dataclass
class Finding:
    """What the machine code of a variant for a target shows.

    registers      per thread (AMD: vector registers, accumulation registers included)
    spills         instructions that touch spilled registers, STL and LDL (AMD: spilled registers)
    stack          bytes of local (AMD: scratch) memory per thread
    shared         bytes of shared memory per block
    mixed          registers whose two numbers run into each other, see `ptx.mixed_halves` (AMD: not looked for)
    expected       a product of the kernel is one for tensor cores: bfloat16, float16 or tf32
    missed         such products that the compiler gave to ordinary multiply-adds, by place in the source
    tensor         tensor-core instructions in the code by kind: mma, wgmma, tcgen05, mfma
    widest_load    bytes that one thread fetches from global memory by one instruction; 0: it fetches nothing
    bulk_copies    instructions by which one thread fetches a whole tile (TMA)
    instructions   in the code; per tile and floor see ``loops``; None where there is no product in a loop
    """

    variant: str
    target: str
    default: bool
    dots: str
    error: str = ""
    registers: int = 0
    spills: int = 0
    stack: int = 0
    shared: int = 0
    mixed: int = 0
    expected: bool = False
    missed: tuple[str, ...] = ()
    tensor: dict[str, int] | None = None
    widest_load: int = 0
    bulk_copies: int = 0
    instructions: int = 0
    per_tile: int | None = None
    floor: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def source(variant: Variant) -> Any:
    """The kernel with types and constants as a launch would specialise them."""
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    if set(variant.signature) != set(names):
        raise ValueError(f"{variant.name}: the kernel takes {names}, the signature has {list(variant.signature)}.")
    return ASTSource(
        fn=variant.kernel,
        signature={name: variant.signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in variant.divisible},
    )


def compile_variant(variant: Variant, target: Target) -> Any:
    """Triton's CompiledKernel. Triton keeps it in its cache directory under a hash of source, options and versions."""
    import triton

    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages, "enable_fp_fusion": FP_FUSION}
    return triton.compile(source(variant), target=target.gpu(), options=options)


def examine(variant: Variant, target: Target) -> Finding:
    """Compile and read. A compiler's error is a finding too, not an exception."""
    finding = Finding(variant.name, target.name, variant.default, variant.dots)
    try:
        compiled = compile_variant(variant, target)
    except Exception as error:  # the compilers raise what they like; the gate reports every kind
        message = str(error).strip() or type(error).__name__
        finding.error = re.sub(r"\s+", " ", message)[:300]
        return finding
    finding.shared = compiled.metadata.shared
    wanted = {dot.place for dot in ir.dots(compiled.asm["ttir"]) if dot.needs_tensor_cores}
    finding.expected = bool(wanted)
    spread = ir.places_without_tensor_cores(compiled.asm["ttgir"])
    finding.missed = tuple(sorted((wanted | {ir.UNKNOWN}) & spread)) if wanted else ()
    if target.backend == "cuda":
        finding.mixed = ptx.mixed_halves(compiled.asm["ptx"])
    code = sass.read(compiled) if target.backend == "cuda" else amdgcn.read(compiled)
    finding.registers, finding.spills, finding.stack = code.registers, code.spills, code.stack
    finding.tensor = {kind: count for kind, count in code.tensor.items() if count}
    finding.widest_load, finding.bulk_copies = code.widest_load, code.bulk_copies
    finding.instructions = len(code.instructions)
    cost = loops.cost(code, compiled.asm["ttir"], variant.num_warps, target.warp)
    if cost is not None:
        finding.per_tile, finding.floor = cost
    return finding
