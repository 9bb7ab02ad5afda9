// Storage types, the type all arithmetic is done in, and loads and stores of several numbers at once.
#pragma once

#include <cstring>

#include "platform.h"

namespace palora_cuda {

struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};

template <class S>
struct compute {
  using type = float;
};
template <>
struct compute<double> {
  using type = double;
};
template <class S>
using compute_t = typename compute<S>::type;

HD uint32_t bits_of(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof(bits));
  return bits;
}
HD float from_bits(uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof(v));
  return v;
}

// Conversions without hardware: what the device's own instructions do, bit for bit except in which NaN they make.

HD float soft_widen(bf16 v) { return from_bits(static_cast<uint32_t>(v.bits) << 16); }

HD float soft_widen(fp16 v) {
  uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000) << 16, exponent = v.bits >> 10 & 31, mantissa = v.bits & 0x3ff;
  if (exponent == 0) {  // zero and subnormal numbers, multiples of 2^-24
    float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return from_bits(sign | (exponent == 31 ? 0xffu : exponent + 112) << 23 | mantissa << 13);
}

// Both round to the nearest, ties to even.
HD bf16 soft_narrow_bf16(float v) {
  uint32_t bits = bits_of(v);
  if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};  // NaN
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

HD fp16 soft_narrow_fp16(float v) {
  uint32_t bits = bits_of(v), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff, result;
  if (magnitude > 0x7f800000)
    result = 0x7fff;  // NaN
  else if (magnitude >= 0x477ff000)  // from 65520 on
    result = 0x7c00;
  else if (magnitude < 0x38800000)  // below 2^-14: the sum with 1/2 has a last place of 2^-24
    result = bits_of(from_bits(magnitude) + 0.5f) - 0x3f000000;
  else
    result = ((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13) - (112u << 10);
  return {static_cast<uint16_t>(sign | result)};
}

HD float widen(float v) { return v; }
HD double widen(double v) { return v; }
HD float widen(bf16 v) { return soft_widen(v); }
HD float widen(fp16 v) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(v.bits));
#else
  return soft_widen(v);
#endif
}

HD void narrow(float v, float& out) { out = v; }
HD void narrow(double v, double& out) { out = v; }
HD void narrow(float v, bf16& out) {
#ifdef __CUDA_ARCH__
  out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
#else
  out = soft_narrow_bf16(v);
#endif
}
HD void narrow(float v, fp16& out) {
#ifdef __CUDA_ARCH__
  out.bits = __half_as_ushort(__float2half_rn(v));
#else
  out = soft_narrow_fp16(v);
#endif
}

// How many numbers make 16 bytes, the widest access of a thread.
template <class S>
constexpr int WIDTH = 16 / static_cast<int>(sizeof(S));

// The bits of V numbers, moved by one instruction if they are 16 bytes. V is WIDTH<S> or 1.
template <class S, int V>
struct alignas(V * sizeof(S)) Pack {
  S v[V];
};

template <class S, int V>
HD void load(const S* from, compute_t<S> (&to)[V]) {
  Pack<S, V> pack = *reinterpret_cast<const Pack<S, V>*>(from);
  UNROLL for (int i = 0; i < V; ++i) to[i] = widen(pack.v[i]);
}

template <class S, int V>
HD void store(const compute_t<S> (&from)[V], S* to) {
  Pack<S, V> pack;
  UNROLL for (int i = 0; i < V; ++i) narrow(from[i], pack.v[i]);
  *reinterpret_cast<Pack<S, V>*>(to) = pack;
}

}  // namespace palora_cuda
