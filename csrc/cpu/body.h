// The loops behind kernels.h, written over the vector width. Each kernels_<isa>.cpp defines PALORA_ISA (a namespace) and
// PALORA_VECTOR_BYTES, switches the compiler to its instruction set, and includes this file.

namespace palora {
namespace PALORA_ISA {

#include "simd.h"

constexpr bool WIDE = PALORA_VECTOR_BYTES == 64;  // 32 vector registers instead of 16

// ------------------------------------------------------------------------------------------- s = x b^T, a skinny product

template <class S, class C, int I, int J>
INLINE void dots_tile(const S* x, index ldx, const C* b, index ldb, C* s, index lds, index K) {
  V<C> total[I][J] = {};
  index k = 0;
  for (; k + L<C> <= K; k += L<C>) {
    V<C> xv[I];
    UNROLL for (int i = 0; i < I; ++i) { xv[i] = load(x + i * ldx + k); }
    UNROLL for (int j = 0; j < J; ++j) { V<C> bv = load(b + j * ldb + k);
      UNROLL for (int i = 0; i < I; ++i) { total[i][j] += xv[i] * bv; } }
  }
  if (k < K) {
    V<C> xv[I];
    UNROLL for (int i = 0; i < I; ++i) { xv[i] = load_part(x + i * ldx + k, K - k); }
    UNROLL for (int j = 0; j < J; ++j) { V<C> bv = load_part(b + j * ldb + k, K - k);
      UNROLL for (int i = 0; i < I; ++i) { total[i][j] += xv[i] * bv; } }
  }
  UNROLL for (int i = 0; i < I; ++i) { UNROLL for (int j = 0; j < J; ++j) { s[i * lds + j] = sum<C>(total[i][j]); } }
}

template <class S, class C, int I>
INLINE void dots_rows(const S* x, index ldx, const C* b, index ldb, C* s, index lds, index R, index K) {
  index j = 0;
  for (; j + 4 <= R; j += 4) dots_tile<S, C, I, 4>(x, ldx, b + j * ldb, ldb, s + j, lds, K);
  if (R - j == 3) dots_tile<S, C, I, 3>(x, ldx, b + j * ldb, ldb, s + j, lds, K);
  if (R - j == 2) dots_tile<S, C, I, 2>(x, ldx, b + j * ldb, ldb, s + j, lds, K);
  if (R - j == 1) dots_tile<S, C, I, 1>(x, ldx, b + j * ldb, ldb, s + j, lds, K);
}

template <class S, class C>
void dots(const S* x, index ldx, const C* b, index ldb, C* s, index lds, index rows, index R, index K) {
  constexpr int I = WIDE ? 4 : 2;
  index i = 0;
  for (; i + I <= rows; i += I) dots_rows<S, C, I>(x + i * ldx, ldx, b, ldb, s + i * lds, lds, R, K);
  for (; i < rows; ++i) dots_rows<S, C, 1>(x + i * ldx, ldx, b, ldb, s + i * lds, lds, R, K);
}

// ------------------------------------------------------------------------------------------------- y = base + s a

template <class S, class C, int I, int N>
INLINE void update_tile(const S* base, index ldbase, S* y, index ldy, const C* s, index lds, const C* a, index lda,
                        index R) {
  V<C> total[I][N] = {};
  if (base != nullptr)
    UNROLL for (int i = 0; i < I; ++i) { UNROLL for (int n = 0; n < N; ++n) { total[i][n] = load(base + i * ldbase + n * L<C>); } }
  for (index j = 0; j < R; ++j) {
    V<C> av[N];
    UNROLL for (int n = 0; n < N; ++n) { av[n] = load(a + j * lda + n * L<C>); }
    UNROLL for (int i = 0; i < I; ++i) { V<C> sv = splat<C>(s[i * lds + j]);
      UNROLL for (int n = 0; n < N; ++n) { total[i][n] += sv * av[n]; } }
  }
  UNROLL for (int i = 0; i < I; ++i) { UNROLL for (int n = 0; n < N; ++n) { store(y + i * ldy + n * L<C>, total[i][n]); } }
}

template <class S, class C, int I>
INLINE void update_rest(const S* base, index ldbase, S* y, index ldy, const C* s, index lds, const C* a, index lda,
                        index R, index m) {
  V<C> total[I] = {};
  if (base != nullptr)
    UNROLL for (int i = 0; i < I; ++i) { total[i] = load_part(base + i * ldbase, m); }
  for (index j = 0; j < R; ++j) {
    V<C> av = load_part(a + j * lda, m);
    UNROLL for (int i = 0; i < I; ++i) { total[i] += splat<C>(s[i * lds + j]) * av; }
  }
  UNROLL for (int i = 0; i < I; ++i) { store_part(y + i * ldy, total[i], m); }
}

template <class S, class C, int I>
INLINE void update_rows(const S* base, index ldbase, S* y, index ldy, const C* s, index lds, const C* a, index lda,
                        index R, index N) {
  index o = 0;
  auto at = [&](index offset) { return base == nullptr ? base : base + offset; };
  for (; o + 2 * L<C> <= N; o += 2 * L<C>)
    update_tile<S, C, I, 2>(at(o), ldbase, y + o, ldy, s, lds, a + o, lda, R);
  for (; o + L<C> <= N; o += L<C>) update_tile<S, C, I, 1>(at(o), ldbase, y + o, ldy, s, lds, a + o, lda, R);
  if (o < N) update_rest<S, C, I>(at(o), ldbase, y + o, ldy, s, lds, a + o, lda, R, N - o);
}

template <class S, class C>
void update(const S* base, index ldbase, S* y, index ldy, const C* s, index lds, const C* a, index lda, index rows,
            index R, index N) {
  constexpr int I = 4;
  index i = 0;
  auto at = [&](index row) { return base == nullptr ? base : base + row * ldbase; };
  for (; i + I <= rows; i += I)
    update_rows<S, C, I>(at(i), ldbase, y + i * ldy, ldy, s + i * lds, lds, a, lda, R, N);
  for (; i < rows; ++i) update_rows<S, C, 1>(at(i), ldbase, y + i * ldy, ldy, s + i * lds, lds, a, lda, R, N);
}

// ---------------------------------------------------------------------------------------------------- acc += u^T x

template <class S, class C, int J, int N, bool PART>
INLINE void outer_tile(const C* u, index ldu, const S* x, index ldx, C* acc, index ldacc, index rows, index m) {
  V<C> total[J][N] = {};
  for (index i = 0; i < rows; ++i) {
    V<C> xv[N];
    UNROLL for (int n = 0; n < N; ++n) { const S* p = x + i * ldx + n * L<C>;
      if constexpr (PART)
        xv[n] = load_part(p, m);
      else
        xv[n] = load(p); }
    UNROLL for (int j = 0; j < J; ++j) { V<C> uv = splat<C>(u[i * ldu + j]);
      UNROLL for (int n = 0; n < N; ++n) { total[j][n] += uv * xv[n]; } }
  }
  UNROLL for (int j = 0; j < J; ++j) { UNROLL for (int n = 0; n < N; ++n) { C* p = acc + j * ldacc + n * L<C>;
      if constexpr (PART)
        store_part(p, load_part(p, m) + total[j][n], m);
      else
        store(p, load(p) + total[j][n]); } }
}

template <class S, class C, int J>
INLINE void outer_columns(const C* u, index ldu, const S* x, index ldx, C* acc, index ldacc, index rows, index N) {
  constexpr int W = J <= 2 ? 4 : 2;
  index k = 0;
  for (; k + W * L<C> <= N; k += W * L<C>)
    outer_tile<S, C, J, W, false>(u, ldu, x + k, ldx, acc + k, ldacc, rows, 0);
  for (; k + L<C> <= N; k += L<C>) outer_tile<S, C, J, 1, false>(u, ldu, x + k, ldx, acc + k, ldacc, rows, 0);
  if (k < N) outer_tile<S, C, J, 1, true>(u, ldu, x + k, ldx, acc + k, ldacc, rows, N - k);
}

template <class S, class C>
void outer(const C* u, index ldu, const S* x, index ldx, C* acc, index ldacc, index rows, index R, index N) {
  index j = 0;
  if constexpr (WIDE)
    for (; j + 8 <= R; j += 8) outer_columns<S, C, 8>(u + j, ldu, x, ldx, acc + j * ldacc, ldacc, rows, N);
  for (; j + 4 <= R; j += 4) outer_columns<S, C, 4>(u + j, ldu, x, ldx, acc + j * ldacc, ldacc, rows, N);
  if (R - j == 3) outer_columns<S, C, 3>(u + j, ldu, x, ldx, acc + j * ldacc, ldacc, rows, N);
  if (R - j == 2) outer_columns<S, C, 2>(u + j, ldu, x, ldx, acc + j * ldacc, ldacc, rows, N);
  if (R - j == 1) outer_columns<S, C, 1>(u + j, ldu, x, ldx, acc + j * ldacc, ldacc, rows, N);
}

template <class S, class C>
void add_rows(const S* x, index ldx, C* acc, index rows, index N) {
  index k = 0;
  for (; k + L<C> <= N; k += L<C>) {
    V<C> total = load(acc + k);
    for (index i = 0; i < rows; ++i) total += load(x + i * ldx + k);
    store(acc + k, total);
  }
  if (k < N) {
    V<C> total = load_part(acc + k, N - k);
    for (index i = 0; i < rows; ++i) total += load_part(x + i * ldx + k, N - k);
    store_part(acc + k, total, N - k);
  }
}

// ------------------------------------------------------------------------- combinations of B tensors into A tensors

template <class S, class C, bool PART>
INLINE void mix_block(const S* in, index in_b, S* out, index out_a, const C* c, index ldc, const C* bias, index ldbias,
                      index A, index B, index m) {
  auto take = [&](auto* p) {
    if constexpr (PART)
      return load_part(p, m);
    else
      return load(p);
  };
  for (index a = 0; a < A; ++a) {
    V<C> total = bias == nullptr ? zero<C>() : take(bias + a * ldbias);
    for (index b = 0; b < B; ++b) total += splat<C>(c[a * ldc + b]) * take(in + b * in_b);
    if constexpr (PART)
      store_part(out + a * out_a, total, m);
    else
      store(out + a * out_a, total);
  }
}

template <class S, class C>
void mix(const S* in, index in_b, index in_row, S* out, index out_a, index out_row, const C* c, index ldc,
         const C* bias, index ldbias, index A, index B, index rows, index N) {
  for (index p = 0; p < rows; ++p) {
    const S* source = in + p * in_row;
    S* target = out + p * out_row;
    index i = 0;
    auto at = [&](index offset) { return bias == nullptr ? bias : bias + offset; };
    for (; i + L<C> <= N; i += L<C>)
      mix_block<S, C, false>(source + i, in_b, target + i, out_a, c, ldc, at(i), ldbias, A, B, 0);
    if (i < N)
      mix_block<S, C, true>(source + i, in_b, target + i, out_a, c, ldc, at(i), ldbias, A, B, N - i);
  }
}

// z holds C, out holds S: vectors of C on both sides.
template <class S, class C, int N, bool PART>
INLINE void combine_block(const C* z, index ldz, S* out, index ldout, const C* c, index ldc, index A, index B,
                          index m) {
  for (index a = 0; a < A; ++a) {
    V<C> total[N] = {};
    for (index b = 0; b < B; ++b) {
      V<C> cv = splat<C>(c[a * ldc + b]);
      UNROLL for (int n = 0; n < N; ++n) { total[n] += cv * load(z + b * ldz + n * L<C>); }
    }
    UNROLL for (int n = 0; n < N; ++n) { if constexpr (PART)
        store_part(out + a * ldout + n * L<C>, total[n], m);
      else
        store(out + a * ldout + n * L<C>, total[n]); }
  }
}

template <class S, class C>
void combine_row(const C* z, index ldz, S* out, index ldout, const C* c, index ldc, index A, index B, index N) {
  index i = 0;
  for (; i + 4 * L<C> <= N; i += 4 * L<C>)
    combine_block<S, C, 4, false>(z + i, ldz, out + i, ldout, c, ldc, A, B, 0);
  for (; i + L<C> <= N; i += L<C>) combine_block<S, C, 1, false>(z + i, ldz, out + i, ldout, c, ldc, A, B, 0);
  if (i < N) combine_block<S, C, 1, true>(z + i, ldz, out + i, ldout, c, ldc, A, B, N - i);
}

template <class S, class C>
void reduce_row(const S* g, index ldg, C* gz, index ldgz, const C* c, index ldc, index E, index M, index N) {
  auto block = [&](auto width, index i) {
    constexpr int W = decltype(width)::value;
    for (index e = 0; e < E; ++e) {
      V<C> total[W] = {};
      for (index m = 0; m < M; ++m) {
        V<C> cv = splat<C>(c[e * ldc + m]);
        UNROLL for (int n = 0; n < W; ++n) { total[n] += cv * load(g + m * ldg + i + n * L<C>); }
      }
      UNROLL for (int n = 0; n < W; ++n) { store(gz + e * ldgz + i + n * L<C>, total[n]); }
    }
  };
  index i = 0;
  for (; i + 4 * L<C> <= N; i += 4 * L<C>) block(number<4>(), i);
  for (; i + L<C> <= N; i += L<C>) block(number<1>(), i);
  if (i < N)
    for (index e = 0; e < E; ++e) {
      V<C> total = zero<C>();
      for (index m = 0; m < M; ++m) total += splat<C>(c[e * ldc + m]) * load_part(g + m * ldg + i, N - i);
      store(gz + e * ldgz + i, total);  // the spare elements become zero
    }
}

template <class S, class C>
void widen(const S* in, C* out, index count) {
  index i = 0;
  for (; i + L<C> <= count; i += L<C>) store(out + i, load(in + i));
  if (i < count) store_part(out + i, load_part(in + i, count - i), count - i);
}

// ------------------------------------------------------------------------------ convolutions that share a small input

// P positions x N vectors of filters; `kernel` rows are ldk apart, one per tap.
template <class C, int P, int N>
INLINE void conv_tile(const C* rows, index ldrow, const C* kernel, index ldk, C* total_out, index kh, index kw,
                      index channels, index step, index dilation) {
  V<C> total[P][N] = {};
  for (index y = 0; y < kh; ++y)
    for (index x = 0; x < kw; ++x) {
      const C* pixel = rows + y * ldrow + x * dilation * channels;
      for (index ch = 0; ch < channels; ++ch, kernel += ldk) {
        V<C> kv[N];
        UNROLL for (int n = 0; n < N; ++n) { kv[n] = load(kernel + n * L<C>); }
        UNROLL for (int p = 0; p < P; ++p) { V<C> xv = splat<C>(pixel[p * step + ch]);
          UNROLL for (int n = 0; n < N; ++n) { total[p][n] += xv * kv[n]; } }
      }
    }
  UNROLL for (int p = 0; p < P; ++p) { UNROLL for (int n = 0; n < N; ++n) { store(total_out + (p * N + n) * L<C>, total[p][n]); } }
}

template <class C, int P, int N>
INLINE void conv_positions(const C* rows, index ldrow, const C* kernel, index ldk, C* z, index ldz, index kh, index kw,
                           index channels, index step, index dilation, index first, index blocks, index O) {
  C buffer[P * N * L<C>];
  conv_tile<C, P, N>(rows, ldrow, kernel + first * L<C>, ldk, buffer, kh, kw, channels, step, dilation);
  // A vector's lanes beyond O land where the next position writes after it, or in the spare end of the row.
  UNROLL for (int n = 0; n < N; ++n) { index e = (first + n) / blocks, o = (first + n) % blocks * L<C>;
    UNROLL for (int p = 0; p < P; ++p) { C* target = z + e * ldz + p * O + o;
      if (o + L<C> <= O || blocks == 1)
        store(target, load(buffer + (p * N + n) * L<C>));
      else
        store_part(target, load(buffer + (p * N + n) * L<C>), O - o); } }
}

template <class S, class C>
void conv_row(const C* rows, index ldrow, const C* kernel, C* z, index ldz, index kh, index kw, index channels,
              index stride, index dilation, index width, index E, index O) {
  constexpr int P = WIDE ? 6 : 3;
  index blocks = (O + L<C> - 1) / L<C>, ldk = E * blocks * L<C>, step = stride * channels;
  index first = 0;
  auto group = [&](auto count) {
    constexpr int N = decltype(count)::value;
    index w = 0;
    for (; w + P <= width; w += P)
      conv_positions<C, P, N>(rows + w * step, ldrow, kernel, ldk, z + w * O, ldz, kh, kw, channels, step, dilation,
                              first, blocks, O);
    for (; w < width; ++w)
      conv_positions<C, 1, N>(rows + w * step, ldrow, kernel, ldk, z + w * O, ldz, kh, kw, channels, step, dilation,
                              first, blocks, O);
    first += N;
  };
  while (E * blocks - first >= 3) group(number<3>());
  if (E * blocks - first == 2) group(number<2>());
  if (E * blocks - first == 1) group(number<1>());
}

template <class C, int T, int N>
INLINE void taps_tile(const C* const* taps, index step, const C* const* gz, index ldgz, C* acc, index ldacc,
                      index width) {
  V<C> total[T][N] = {};
  for (index w = 0; w < width; ++w) {
    V<C> gv[N];
    UNROLL for (int n = 0; n < N; ++n) { gv[n] = load(gz[n] + w * ldgz); }
    UNROLL for (int t = 0; t < T; ++t) { V<C> xv = splat<C>(taps[t][w * step]);
      UNROLL for (int n = 0; n < N; ++n) { total[t][n] += xv * gv[n]; } }
  }
  UNROLL for (int t = 0; t < T; ++t) { UNROLL for (int n = 0; n < N; ++n) { C* p = acc + t * ldacc + n * L<C>;
      store(p, load(p) + total[t][n]); } }
}

template <class S, class C>
void conv_row_kernel(const C* rows, index ldrow, const C* gz, index ldgz, C* acc, index kh, index kw, index channels,
                     index stride, index dilation, index width, index E, index O) {
  constexpr int T = WIDE ? 7 : 3;
  index blocks = (O + L<C> - 1) / L<C>, ldk = E * blocks * L<C>, step = stride * channels;
  index taps = kh * kw * channels;
  auto address = [&](index tap) {
    index y = tap / (kw * channels), x = tap / channels % kw, ch = tap % channels;
    return rows + y * ldrow + x * dilation * channels + ch;
  };
  index first = 0;
  auto group = [&](auto count) {
    constexpr int N = decltype(count)::value;
    const C* sources[N];
    UNROLL for (int n = 0; n < N; ++n) { sources[n] = gz + (first + n) / blocks * ldgz + (first + n) % blocks * L<C>; }
    C* target = acc + first * L<C>;
    index tap = 0;
    for (; tap + T <= taps; tap += T) {
      const C* pixels[T];
      UNROLL for (int t = 0; t < T; ++t) { pixels[t] = address(tap + t); }
      taps_tile<C, T, N>(pixels, step, sources, O, target + tap * ldk, ldk, width);
    }
    for (; tap < taps; ++tap) {
      const C* pixel = address(tap);
      taps_tile<C, 1, N>(&pixel, step, sources, O, target + tap * ldk, ldk, width);
    }
    first += N;
  };
  while (E * blocks - first >= 3) group(number<3>());
  if (E * blocks - first == 2) group(number<2>());
  if (E * blocks - first == 1) group(number<1>());
}

// ------------------------------------------------------------------------------- 2 x 2 max-pooling and ReLU, one pass

template <class C>
struct bytes_of {
  typedef uint8_t type __attribute__((vector_size(L<C>)));
};
template <class C>
using Mask = decltype(V<C>{} > V<C>{});

template <class C>
INLINE void keep_larger(V<C>& best, Mask<C>& which, V<C> other, int number) {
  Mask<C> larger = (other > best) | (other != other);  // a NaN wins, as in torch
  best = larger ? other : best;
  which = larger ? Mask<C>{} + number : which;
}

template <class S, class C>
void pool_row(const S* a, const S* b, S* y, uint8_t* which, index width, index channels) {
  for (index w = 0; w < width; ++w, a += 2 * channels, b += 2 * channels, y += channels, which += channels) {
    for (index c = 0; c < channels; c += L<C>) {
      index m = channels - c;
      bool whole = m >= L<C>;
      auto get = [&](const S* p) { return whole ? load(p + c) : load_part(p + c, m); };
      V<C> best = get(a);
      Mask<C> k{};
      keep_larger<C>(best, k, get(a + channels), 1);
      keep_larger<C>(best, k, get(b), 2);
      keep_larger<C>(best, k, get(b + channels), 3);
      Mask<C> dead = best <= zero<C>();
      best = dead ? zero<C>() : best;
      k = dead ? Mask<C>{} + 4 : k;
      typename bytes_of<C>::type bytes = __builtin_convertvector(k, typename bytes_of<C>::type);
      if (whole) {
        store(y + c, best);
        __builtin_memcpy(which + c, &bytes, L<C>);
      } else {
        store_part(y + c, best, m);
        uint8_t buffer[L<C>];
        __builtin_memcpy(buffer, &bytes, L<C>);
        for (index i = 0; i < m; ++i) which[c + i] = buffer[i];
      }
    }
  }
}

template <class S, class C>
void unpool_row(const S* dy, const uint8_t* which, S* da, S* db, index width, index channels) {
  for (index w = 0; w < width; ++w, da += 2 * channels, db += 2 * channels, dy += channels, which += channels) {
    for (index c = 0; c < channels; c += L<C>) {
      index m = channels - c;
      bool whole = m >= L<C>;
      uint8_t buffer[L<C>] = {};
      if (whole)
        __builtin_memcpy(buffer, which + c, L<C>);
      else
        for (index i = 0; i < m; ++i) buffer[i] = which[c + i];
      typename bytes_of<C>::type bytes;
      __builtin_memcpy(&bytes, buffer, L<C>);
      Mask<C> k = __builtin_convertvector(bytes, Mask<C>);
      V<C> g = whole ? load(dy + c) : load_part(dy + c, m);
      S* targets[4] = {da + c, da + channels + c, db + c, db + channels + c};
      UNROLL for (int i = 0; i < 4; ++i) {
        V<C> part = k == Mask<C>{} + i ? g : zero<C>();
        if (whole)
          store(targets[i], part);
        else
          store_part(targets[i], part, m);
      }
    }
  }
}

template <class S>
constexpr Kernels<S> all() {
  using C = compute_t<S>;
  return {dots<S, C>,        update<S, C>,     outer<S, C>,      add_rows<S, C>, mix<S, C>, conv_row<S, C>,
          conv_row_kernel<S, C>, combine_row<S, C>, reduce_row<S, C>, widen<S, C>,    pool_row<S, C>,
          unpool_row<S, C>,  L<C>};
}

extern const Kernels<float> float_kernels = all<float>();
extern const Kernels<double> double_kernels = all<double>();
extern const Kernels<bf16> bf16_kernels = all<bf16>();

#include "tile_body.h"

}  // namespace PALORA_ISA
}  // namespace palora
