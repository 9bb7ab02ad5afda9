"""Compilation ahead of time: the gate catches planted faults, its readers count right, and the kernels pass."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from palora_kernels import versions
from palora_kernels.verify import catalog
from palora_kernels.verify.aot import TARGETS, amdgcn, ir, loops, ptx, sass
from palora_kernels.verify.aot.building import Finding
from palora_kernels.verify.aot.code import Code
from palora_kernels.verify.aot.gate import faults

TESTS = Path(__file__).parent


def compile_all(folder: Path, *arguments: str) -> tuple[int, str, dict[tuple[str, str], dict[str, Any]]]:
    """Exit code, output, and the rows by variant and target. A process of its own: here Triton only interprets."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path, str(TESTS)])
    command = [sys.executable, "-m", "palora_kernels.verify.aot", "--json", str(folder / "aot.json"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads((folder / "aot.json").read_text())
    return done.returncode, done.stdout, {(row["variant"], row["target"]): row for row in rows}


def test_the_largest_default_tile_of_every_kernel_and_dtype_passes_for_sm_80_and_sm_90(tmp_path: Path) -> None:
    code, output, rows = compile_all(tmp_path, "--quick")
    assert code == 0, output[output.index("FAULT") :]
    assert {target for _, target in rows} == {"sm_80", "sm_90"}


@pytest.mark.slow
def test_every_configuration_passes_for_every_target(tmp_path: Path) -> None:
    code, output, rows = compile_all(tmp_path, "--all")
    assert code == 0, output[output.index("FAULT") :]
    assert {target for _, target in rows} == set(TARGETS)


def test_every_target_keeps_a_tile_that_does_not_spill() -> None:
    """The list of `spills` may not empty what a launch chooses from."""
    chosen: dict[tuple[str, ...], set[str]] = defaultdict(set)
    listed: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for variant in catalog.all_variants():
        if found := re.match(r"(.*) (bf16|fp16|fp32|tf32) \d+x\d+x\d+ ", variant.name):
            listed[found.groups()].update(variant.targets or TARGETS)
            chosen[found.groups()].update((variant.targets or TARGETS) if variant.default else ())
    assert len(listed) > 100
    assert chosen == listed


def links_for_amd() -> bool:
    """Triton 3.4 needs ROCm's linker for AMD's code, which its wheel does not bring; later releases have their own."""
    from triton.backends.amd.compiler import HIPBackend

    try:
        getattr(HIPBackend, "path_to_rocm_lld", str)()
    except Exception:
        return False
    return True


def test_planted_faults_are_caught(tmp_path: Path) -> None:
    targets = ["sm_80", "sm_90", "gfx942"] if links_for_amd() else ["sm_80", "sm_90"]
    code, output, rows = compile_all(tmp_path, "--catalog", "triton_toys", "--all", "--targets", *targets)
    found = {key: " ".join(row["faults"]) for key, row in rows.items()}
    expected = {
        ("spills", "sm_80"): "spills",
        ("spills on AMD", "gfx942"): "spills",
        ("too much shared memory", "sm_80"): "196608 bytes of 166912",
        ("too much shared memory", "gfx942"): "196608 bytes of 65536",
        ("no tensor cores", "sm_80"): "no product here is one for tensor cores",
        ("no tensor cores", "sm_90"): "no product here is one for tensor cores",
        ("tile too narrow", "gfx942"): "products without tensor cores: triton_toys.py",
        ("said to be ieee", "sm_90"): "a product here is one for tensor cores",
        ("does not compile", "sm_80"): "does not compile: at ",  # and where; some releases say why
    }
    expected = {key: reason for key, reason in expected.items() if key[1] in targets}
    for key, reason in expected.items():
        assert reason in found[key], key
    if versions.triton_release() < (3, 6):  # it keeps a tile of four rows off NVIDIA's tensor cores too
        expected["tile too narrow", "sm_80"] = found["tile too narrow", "sm_80"]
    assert {key for key, reasons in found.items() if reasons} == set(expected)
    assert code == 1
    assert output.count("FAULT ") == sum(len(row["faults"]) for row in rows.values())
    # Not a default: the same spilling code is listed and passes.
    assert rows["spills, untuned", "sm_80"]["spills"] == rows["spills", "sm_80"]["spills"] > 0
    # What a sound kernel shows.
    assert rows["sound bf16", "sm_80"]["tensor"].keys() == {"mma"}
    assert rows["sound bf16", "sm_90"]["tensor"].keys() == {"wgmma"}
    assert rows["sound ieee", "sm_80"]["tensor"] == {}
    assert rows["sound copy", "sm_80"]["widest_load"] == 16
    if "gfx942" in targets:
        assert rows["sound bf16", "gfx942"]["tensor"].keys() == {"mfma"}
        assert rows["sound copy", "gfx942"]["widest_load"] == 16


def finding(**values: Any) -> Finding:
    return Finding(**{"variant": "v", "target": "sm_80", "default": True, "dots": "none", **values})


def test_stack_without_a_counted_spill_is_a_fault_too() -> None:
    assert faults(finding(stack=8), TARGETS["sm_80"]) == ["spills: 0 instructions or registers, 8 bytes of stack"]
    assert faults(finding(stack=8, default=False), TARGETS["sm_80"]) == []


def test_another_makers_instruction_does_not_count() -> None:
    wrong = finding(dots="tensor", expected=True, tensor={"mfma": 4})
    assert faults(wrong, TARGETS["sm_80"]) == ["no tensor-core instruction"]
    assert faults(wrong, TARGETS["gfx942"]) == []


TTIR = """\
#loc = loc("kernel.py":1:1)
    %0 = tt.dot %p, %q, %z : tensor<16x16xf32> * tensor<16x8xf32> -> tensor<16x8xf32> loc(#loc1)
    %acc:2 = scf.for %k = %a to %b step %c iter_args(%x = %z) -> (tensor<64x32xf32>)  : i32 {
      %1 = tt.dot %x1, %w1, %x, inputPrecision = tf32 : tensor<64x8xf32> * tensor<8x32xf32> -> tensor<64xf32> loc(#loc2)
      %2 = tt.dot %x1, %b1, %y : tensor<64x8xbf16> * tensor<8x16xbf16> -> tensor<64x16xf32> loc(#loc3)
      scf.yield %1 : tensor<64x32xf32> loc(#loc)
    } loc(#loc)
#loc1 = loc("s"(#loc4))
#loc2 = loc(callsite(#loc5 at #loc1))
#loc3 = loc("kernel.py":9:5)
#loc4 = loc("/a/b/kernel.py":7:3)
#loc5 = loc("/a/b/tiles.py":3:2)
"""


def test_products_are_read_with_their_loop_and_place() -> None:
    outside, tf32, bf16 = ir.dots(TTIR)
    assert (outside.m, outside.n, outside.k, outside.loop, outside.place) == (16, 8, 16, -1, "kernel.py:7:3")
    assert (tf32.m, tf32.n, tf32.k, tf32.loop, tf32.place) == (64, 32, 8, 0, "tiles.py:3:2")
    assert (bf16.dtype, bf16.loop, bf16.operands) == ("bf16", 0, ("%x1", "%b1"))
    assert [dot.needs_tensor_cores for dot in (outside, tf32, bf16)] == [False, True, True]


TTGIR = """\
#blocked = #ttg.blocked<{sizePerThread = [4, 4]}>
#mma = #ttg.nvidia_mma<{versionMajor = 2}>
  %1 = tt.dot %a, %b, %c : tensor<8x8xf32, #ttg.dot_op<{opIdx = 0, parent = #blocked}>> * tensor<8x8xf32> loc(#loc1)
  %2 = tt.dot %a, %b, %c : tensor<8x8xbf16, #ttg.dot_op<{opIdx = 0, parent = #mma}>> * tensor<8x8xbf16> loc(#loc2)
  %3 = tt.dot %a, %b, %c : tensor<8x8xbf16, #ttg.dot_op<{opIdx = 0, parent = #blocked}>> * tensor<8x8xbf16>
#loc1 = loc("/a/kernel.py":7:3)
#loc2 = loc("/a/kernel.py":8:3)
"""


def test_products_on_ordinary_multiply_adds_are_found_by_their_layout() -> None:
    assert ir.places_without_tensor_cores(TTGIR) == {"kernel.py:7:3", ir.UNKNOWN}


SASS = """\
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P3 BRA `(.L_x_0) ;
.L_x_1:
        /*0020*/                   LDGSTS.E.BYPASS.LTC128B.128 [R1], [R2.64] ;
        /*0030*/               @P0 LDG.E.U16 R3, [R4.64] ;
        /*0040*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0050*/                   STL [R1], R7 ;
        /*0060*/              @UP0 LDL.64 R8, [R1] ;
        /*0070*/              @!P3 BRA `(.L_x_1) ;
.L_x_0:
        /*0080*/                   EXIT ;
.L_x_2:
        /*0090*/                   BRA `(.L_x_2);
        /*00a0*/                   NOP;
"""


def test_the_listing_of_nvdisasm_is_read() -> None:
    code = sass.parse(SASS)
    assert len(code.instructions) == 9  # the jump to itself and the padding behind EXIT are not code
    assert code.loops() == [(2, 7)]
    assert code.spills == 2
    assert code.widest_load == 16
    assert code.macs == {"HMMA.16816.F32.BF16": 2048}


# By Triton 3.6 for sm_90: column (tid % 8) * 4 as the upper half of a register, tid << 31 as the lower.
PTX = """
	and.b32 	%r13, %r5, 7;
	mul.wide.u32 	%rd67, %r5, 2147483648;
	cvt.u64.u32 	%rd68, %r13;
	shl.b64 	%rd69, %rd68, 34;
	or.b64 	%rd70, %rd67, %rd69;
	mov.b64 	{_, %r15}, %rd70;
"""


def test_numbers_that_run_into_each_other_are_found() -> None:
    assert ptx.mixed_halves(PTX) == 1
    assert ptx.mixed_halves(PTX.replace("2147483648", "-2147483648")) == 1
    assert ptx.mixed_halves(PTX.replace("2147483648", "32768")) == 0  # 10 bits of a thread's number stay below 2^32
    assert ptx.mixed_halves(PTX.replace("mul.wide.u32 	%rd67, %r5, 2147483648", "cvt.u64.u32 	%rd67, %r5")) == 0
    assert ptx.mixed_halves(PTX.replace("mov.b64 	{_, %r15}, %rd70", "st.global.b64 	[%rd1], %rd70")) == 0
    assert faults(finding(mixed=1), TARGETS["sm_80"]) == ["miscompiled: in 1 registers one number runs into another"]


def test_a_frame_that_nothing_touches_is_none() -> None:
    frame = "        /*0008*/                   VIADD R1, R1, 0xfffffff8 ;\n"
    assert sass.touches_stack(SASS)
    assert not sass.touches_stack(frame + SASS.replace("[R1]", "[R9]"))
    assert sass.touches_stack(frame + "        /*0010*/                   MOV R20, R1 ;\n")


AMDGCN = """\
kernel:
\ts_load_dwordx4 s[0:3], s[0:1], 0x0
.LBB0_1:                                ; =>This Inner Loop
\tglobal_load_dwordx2 v[1:2], v[3:4], off
\tv_mfma_f32_32x32x8_bf16 v[0:15], v[20:21], v[50:51], v[0:15]
\ts_cbranch_scc0 .LBB0_1
\ts_endpgm
\t.section\t.rodata
    .private_segment_fixed_size: 12
    .sgpr_spill_count: 1
    .vgpr_count:     58
    .vgpr_spill_count: 2
"""


def test_amd_assembler_is_read() -> None:
    code = amdgcn.parse(AMDGCN)
    assert (len(code.instructions), code.loops()) == (5, [(1, 3)])
    assert (code.registers, code.spills, code.stack, code.widest_load) == (58, 2, 12, 8)
    assert (code.tensor, code.macs) == ({"mfma": 1}, {"v_mfma_f32_32x32x8_bf16": 8192})


def test_instructions_per_tile_by_hand() -> None:
    """One warp, a 16×8 tile in steps of 32: two m16n8k16 each. A body that holds two steps counts the same."""
    ttir = """\
    %r = scf.for %k = %a to %b step %c -> (tensor<16x8xf32>)  : i32 {
      %1 = tt.dot %x, %w, %acc : tensor<16x32xbf16> * tensor<32x8xbf16> -> tensor<16x8xf32> loc(#loc)
    } loc(#loc)
"""
    product = "HMMA.16816.F32.BF16"

    def code(steps: int) -> Code:
        body = [product, "LDG.E.128", product] * steps + ["BRA"]
        instructions = ["MOV", *body, "STG.E", "EXIT"]
        return Code(instructions, [(len(body), 1)], 0, 0, 0, {}, 16, 0, {product: 2048})

    loads = 1024 * (16 + 8) * 2 / (16 * 32)
    assert loops.cost(code(1), ttir, 1, 32) == (3 + 32 * 4, 64 + loads)
    assert loops.cost(code(2), ttir, 1, 32) == (3 + 16 * 7, 64 + loads)
