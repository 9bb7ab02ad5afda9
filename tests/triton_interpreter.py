"""Triton's interpreter with the arithmetic of a GPU. Not a test itself: conftest.py switches it on where there is none.

As shipped, up to Triton 3.8, the interpreter keeps bfloat16 as its bit pattern in a uint16 and
- adds, multiplies, compares and sums these patterns as if they were integers, ``tl.dot`` included;
- turns float32 into bfloat16 by dropping bits, where the hardware rounds to the nearest, ties to even;
- multiplies float32 exactly where the kernel asked for tf32;
- takes a ``tl.dot`` over fewer products than the compiler does;
- up to Triton 3.6, counts loops by ``int`` of arrays with one element, an error from numpy 2.4.
``correct`` replaces the methods concerned. Kernels are not changed by it: what is tested is what is shipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, ScanOps, TensorHandle, interpreter_builder

from palora_kernels import versions


def widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 → float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 → bfloat16 as uint16, to nearest, ties to even; NaN stays NaN."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def truncate(values: np.ndarray) -> np.ndarray:
    """float32 → bfloat16 as uint16, towards zero."""
    return (np.ascontiguousarray(values, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)


def tf32(values: np.ndarray) -> np.ndarray:
    """float32 with the ten mantissa bits that a tensor core reads; the other thirteen are dropped."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return np.where(np.isfinite(values), (bits & np.uint32(0xFFFFE000)).view(np.float32), values)


def is_bf16(handle: Any) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _wide(handle: Any) -> TensorHandle:
    return TensorHandle(widen(handle.data), tl.float32) if is_bf16(handle) else handle


def _through_float32(method: Callable[..., Any]) -> Callable[..., Any]:
    """An elementwise method that computes in float32 where an operand is bfloat16 and rounds the result."""

    def wrapped(self: Any, *args: Any) -> Any:
        *operands, op = args
        # Masks and integers come along unchanged; moving bit patterns about (np.where) needs no arithmetic.
        if op is np.where or not any(is_bf16(x) for x in operands):
            return method(self, *args)
        found = method(self, *(_wide(x) for x in operands), op)
        if found.data.dtype == np.bool_:
            return TensorHandle(found.data, tl.bfloat16)  # a comparison: its type is set by the caller
        return TensorHandle(narrow(found.data), tl.bfloat16)

    return wrapped


def _cast(original: Callable[..., Any]) -> Callable[..., Any]:
    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        to = dst_type.scalar
        if is_bf16(src):
            return TensorHandle(src.data, tl.bfloat16) if to == tl.bfloat16 else cast_impl(self, _wide(src), dst_type)
        if to == tl.bfloat16:
            return TensorHandle(narrow(src.data.astype(np.float32)), tl.bfloat16)
        return original(self, src, dst_type)

    return cast_impl


def _fp_to_fp(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_fp_to_fp(self: Any, src: Any, dst_type: Any, rounding: Any) -> Any:
        to = dst_type.scalar
        if to == tl.bfloat16 and src.dtype.scalar == tl.float32:
            cut = truncate if rounding == ir.ROUNDING_MODE.RTZ else narrow
            return TensorHandle(cut(src.data), tl.bfloat16)
        if is_bf16(src) and to == tl.float32:
            return TensorHandle(widen(src.data), tl.float32)
        if to == tl.float16 and rounding == ir.ROUNDING_MODE.RTNE:
            return TensorHandle(_wide(src).data.astype(np.float16), tl.float16)
        return original(self, src, dst_type, rounding)

    return create_fp_to_fp


def _dot(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        if a.dtype.scalar == tl.float32 and precision == ir.INPUT_PRECISION.TF32:
            a, b = TensorHandle(tf32(a.data), tl.float32), TensorHandle(tf32(b.data), tl.float32)
        return original(self, _wide(a), _wide(b), d, precision, imprecise)

    return create_dot


def _reduction(original: Callable[..., Any]) -> Callable[..., Any]:
    """Reductions and scans go over the data with numpy: float32 inside, one rounding at the end."""

    def apply_impl(self: Any, inputs: Any) -> Any:
        if not any(x.dtype.scalar == tl.bfloat16 for x in inputs):
            return original(self, inputs)
        if any(x.dtype.scalar == tl.float32 for x in inputs):
            raise NotImplementedError("a reduction of bfloat16 and float32 together")
        wide = tuple(
            tl.tensor(_wide(x.handle), tl.block_type(tl.float32, list(x.shape))) if is_bf16(x.handle) else x
            for x in inputs
        )
        found = original(self, wide)
        found = found if isinstance(found, (list, tuple)) else (found,)
        return [self.to_tensor(narrow(y.handle.data), tl.bfloat16) if y.dtype == tl.float32 else y for y in found]

    return apply_impl


def _fma(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        if not is_bf16(z):
            return original(self, x, y, z)
        return TensorHandle(narrow(original(self, _wide(x), _wide(y), _wide(z)).data), tl.bfloat16)

    return create_fma


def _get_bf16(self: Any, value: float) -> Any:
    return TensorHandle(narrow(np.array([value], dtype=np.float32)), tl.bfloat16)


def _min_dot_size(lhs: Any, rhs: Any) -> tuple[int, int, int]:
    """(M, N, K) of the smallest ``tl.dot`` that compiles for NVIDIA: 32 bytes of K."""
    return (1, 1, 256 // lhs.scalar.primitive_bitwidth)


def _patch_lang_tensor(original: Callable[..., None]) -> Callable[..., None]:
    def patched(tensor: Any, *scope: Any) -> None:
        original(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    return patched


def correct() -> None:
    """Replace the faulty methods. A second call does nothing."""
    if getattr(InterpreterBuilder, "_palora_corrected", False):
        return
    InterpreterBuilder._palora_corrected = True
    for name in ("binary_op", "unary_op", "ternary_op"):
        setattr(InterpreterBuilder, name, _through_float32(getattr(InterpreterBuilder, name)))
    InterpreterBuilder.cast_impl = _cast(InterpreterBuilder.cast_impl)
    InterpreterBuilder.create_fp_to_fp = _fp_to_fp(InterpreterBuilder.create_fp_to_fp)
    InterpreterBuilder.create_dot = _dot(InterpreterBuilder.create_dot)
    InterpreterBuilder.create_fma = _fma(InterpreterBuilder.create_fma)
    InterpreterBuilder.get_bf16 = _get_bf16
    interpreter_builder.codegen_fns["min_dot_size"] = _min_dot_size
    if versions.triton_release() <= (3, 6):
        interpreter._patch_lang_tensor = _patch_lang_tensor(interpreter._patch_lang_tensor)
    for reduction in (ReduceOps, ScanOps):
        reduction.apply_impl = _reduction(reduction.apply_impl)
