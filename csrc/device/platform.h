// What makes these headers compile with nvcc, where the functions run on both sides, and with any other C++ compiler.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define HD __host__ __device__ __forceinline__
#define PRAGMA(text) _Pragma(#text)
#define UNROLL PRAGMA(unroll)
#define UNROLL_BY(n) PRAGMA(unroll n)
#else
#define HD inline
#define UNROLL
#define UNROLL_BY(n)
#endif

namespace palora_cuda {

using index = int64_t;

constexpr int THREADS = 256;  // of every block

// a / b for non-negative numbers: 64-bit division is many times slower on a GPU, and rarely needed.
HD index quotient(index a, index b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

HD index rounded_up_quotient(index a, index b) { return (a + b - 1) / b; }

}  // namespace palora_cuda
