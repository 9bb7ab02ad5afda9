#include "kernels.h"
#include "tiles.h"

#if defined(__x86_64__)
#define PALORA_ISA avx2
#define PALORA_VECTOR_BYTES 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include "body.h"
#pragma clang attribute pop
#else
#pragma GCC target("avx2,fma")
#include "body.h"
#endif
#endif
