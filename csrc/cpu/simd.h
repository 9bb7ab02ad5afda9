// Vectors of PALORA_VECTOR_BYTES bytes. Included by body.h only, once per instruction set, inside PALORA_ISA.
// Nothing here may call a function of the standard library: an inline function compiled for AVX-512 could be the copy
// that the linker keeps for everyone.

constexpr int BYTES = PALORA_VECTOR_BYTES;

template <class C>
struct vector_of {
  typedef C type __attribute__((vector_size(BYTES)));
};
template <class C>
using V = typename vector_of<C>::type;
template <class C>
constexpr index L = BYTES / sizeof(C);

typedef uint32_t words __attribute__((vector_size(BYTES)));
typedef uint16_t halves __attribute__((vector_size(BYTES / 2)));

#define INLINE static inline __attribute__((always_inline))

// A number that a generic lambda can use as a constant.
template <int N>
struct number {
  static constexpr int value = N;
  constexpr operator int() const { return N; }
};

// Loops over accumulators must disappear, or the accumulators live in memory instead of registers.
#define UNROLL _Pragma("GCC unroll 16")

template <class C>
INLINE V<C> zero() {
  return V<C>{};
}
template <class C>
INLINE V<C> splat(C value) {
  return value - V<C>{};  // not a sum: -0 + 0 is 0, so that the compiler would have to add
}

// Overloads rather than templates: load and store of bf16 below must not be candidates for a vector of bf16.
INLINE V<float> load(const float* p) {
  V<float> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
INLINE V<double> load(const double* p) {
  V<double> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
INLINE void store(float* p, V<float> v) { __builtin_memcpy(p, &v, sizeof(v)); }
INLINE void store(double* p, V<double> v) { __builtin_memcpy(p, &v, sizeof(v)); }

INLINE V<float> widened(halves h) {
  words w = __builtin_convertvector(h, words) << 16;
  V<float> v;
  __builtin_memcpy(&v, &w, sizeof(v));
  return v;
}
// Round to nearest, ties to even; a NaN stays one.
INLINE halves narrowed(V<float> v) {
  words w;
  __builtin_memcpy(&w, &v, sizeof(w));
  words rounded = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16;
  words nan = (words)(v != v);
  return __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0u), halves);
}
INLINE V<float> load(const bf16* p) {
  halves h;
  __builtin_memcpy(&h, p, sizeof(h));
  return widened(h);
}
INLINE void store(bf16* p, V<float> v) {
  halves h = narrowed(v);
  __builtin_memcpy(p, &h, sizeof(h));
}

// The first m < L elements; the others read as zero and are not touched in memory.
#if PALORA_VECTOR_BYTES == 64
INLINE V<float> load_part(const float* p, index m) {
  return (V<float>)_mm512_maskz_loadu_ps((__mmask16)((1u << m) - 1), p);
}
INLINE V<double> load_part(const double* p, index m) {
  return (V<double>)_mm512_maskz_loadu_pd((__mmask8)((1u << m) - 1), p);
}
INLINE void store_part(float* p, V<float> v, index m) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << m) - 1), (__m512)v);
}
INLINE void store_part(double* p, V<double> v, index m) {
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << m) - 1), (__m512d)v);
}
#else
template <class C>
INLINE V<C> copy_part(const C* p, index m) {
  C buffer[L<C>] = {};
  for (index i = 0; i < m; ++i) buffer[i] = p[i];
  return load(buffer);
}
template <class C>
INLINE void paste_part(C* p, V<C> v, index m) {
  C buffer[L<C>];
  store(buffer, v);
  for (index i = 0; i < m; ++i) p[i] = buffer[i];
}
INLINE V<float> load_part(const float* p, index m) { return copy_part(p, m); }
INLINE V<double> load_part(const double* p, index m) { return copy_part(p, m); }
INLINE void store_part(float* p, V<float> v, index m) { paste_part(p, v, m); }
INLINE void store_part(double* p, V<double> v, index m) { paste_part(p, v, m); }
#endif
INLINE V<float> load_part(const bf16* p, index m) {
  bf16 buffer[L<float>] = {};
  for (index i = 0; i < m; ++i) buffer[i] = p[i];
  return load(buffer);
}
INLINE void store_part(bf16* p, V<float> v, index m) {
  bf16 buffer[L<float>];
  store(buffer, v);
  for (index i = 0; i < m; ++i) p[i] = buffer[i];
}

// The sum of all lanes, by halves. (Reading parts of a vector through memory would keep accumulators in memory.)
#if defined(__clang__) || __GNUC__ >= 12
template <class C, int LANES>
struct lanes_of {
  typedef C type __attribute__((vector_size(LANES * sizeof(C))));
};
template <class C, int N>
INLINE C sum_lanes(typename lanes_of<C, N>::type v) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else if constexpr (N == 4) {
    typename lanes_of<C, 2>::type low = __builtin_shufflevector(v, v, 0, 1), high = __builtin_shufflevector(v, v, 2, 3);
    return sum_lanes<C, 2>(low + high);
  } else if constexpr (N == 8) {
    typename lanes_of<C, 4>::type low = __builtin_shufflevector(v, v, 0, 1, 2, 3),
                                  high = __builtin_shufflevector(v, v, 4, 5, 6, 7);
    return sum_lanes<C, 4>(low + high);
  } else {
    typename lanes_of<C, 8>::type low = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                                  high = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    return sum_lanes<C, 8>(low + high);
  }
}
template <class C>
INLINE C sum(V<C> v) {
  return sum_lanes<C, int(L<C>)>(v);
}
#else
template <class C>
INLINE C sum(V<C> v) {
  C total = 0;
  for (index i = 0; i < L<C>; ++i) total += v[i];
  return total;
}
#endif
