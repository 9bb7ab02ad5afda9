#include "kernels.h"
#include "tiles.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define PALORA_ISA avx512
#define PALORA_VECTOR_BYTES 64
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#include "body.h"
#pragma clang attribute pop
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#include "body.h"
#endif
#endif
