// The inner loops of the extension as plain functions on raw pointers: no torch, no allocation, no threads.
//
// body.h implements them once, over a vector width; kernels_avx512.cpp, kernels_avx2.cpp and kernels_baseline.cpp
// compile that file for three instruction sets, and table() picks one at run time.
//
// S is the storage type (float, double, bf16), C the type of all arithmetic (float, or double for double).
// Matrices are row-major; an argument ld... is the distance between rows, in elements.
#pragma once

#include <cstdint>

namespace palora {

struct bf16 {
  uint16_t bits;
};

template <class S>
struct compute {
  using type = S;
};
template <>
struct compute<bf16> {
  using type = float;
};
template <class S>
using compute_t = typename compute<S>::type;

using index = int64_t;

template <class S, class C = compute_t<S>>
struct Kernels {
  // s (rows, R) = x (rows, K) b (R, K)^T
  void (*dots)(const S* x, index ldx, const C* b, index ldb, C* s, index lds, index rows, index R, index K);

  // y (rows, N) = base + s (rows, R) a (R, N). `base` may be y itself, or null for nothing.
  void (*update)(const S* base, index ldbase, S* y, index ldy, const C* s, index lds, const C* a, index lda,
                 index rows, index R, index N);

  // acc (R, N) += u (rows, R)^T x (rows, N)
  void (*outer)(const C* u, index ldu, const S* x, index ldx, C* acc, index ldacc, index rows, index R, index N);

  // acc (N) += sum of the rows of x
  void (*add_rows)(const S* x, index ldx, C* acc, index rows, index N);

  // out[a][p][i] = bias[a][i] + sum_b c[a][b] in[b][p][i] for a < A, b < B, p < rows, i < N.
  // Strides of the three axes are (in_b, in_row, 1) and (out_a, out_row, 1); bias may be null, its rows ldbias apart.
  void (*mix)(const S* in, index in_b, index in_row, S* out, index out_a, index out_row, const C* c, index ldc,
              const C* bias, index ldbias, index A, index B, index rows, index N);

  // One output row of E convolutions that share their input.
  //   rows: kh input rows, padded and widened, `ldrow` apart, pixels of C channels;
  //   kernel: (kh, kw*C, E, padded O), as pack() of conv.cpp lays it out;
  //   z: (E, ldz), receives position * O + o.
  void (*conv_row)(const C* rows, index ldrow, const C* kernel, C* z, index ldz, index kh, index kw, index channels,
                   index stride, index dilation, index width, index E, index O);

  // The transpose of conv_row with respect to the kernel: acc (kh, kw*C, E, padded O) += rows^T gz.
  void (*conv_row_kernel)(const C* rows, index ldrow, const C* gz, index ldgz, C* acc, index kh, index kw,
                          index channels, index stride, index dilation, index width, index E, index O);

  // out[a][i] = bias[a][i % period] + sum_b c[a][b] z[b][i]: from arithmetic rows to stored rows.
  void (*combine_row)(const C* z, index ldz, S* out, index ldout, const C* c, index ldc, index A, index B, index N);

  // gz[e][i] = sum_m c[e][m] g[m][i]: the transpose of combine_row.
  void (*reduce_row)(const S* g, index ldg, C* gz, index ldgz, const C* c, index ldc, index E, index M, index N);

  // out[i] = in[i], widened.
  void (*widen)(const S* in, C* out, index count);

  // One row of outputs of a 2 x 2 max-pooling followed by ReLU, pixels of `channels` numbers: y from the input rows a and
  // b of 2*width pixels. which[i]: 0..3, the pixel that won (a's two, then b's), or 4 where ReLU let nothing through.
  void (*pool_row)(const S* a, const S* b, S* y, uint8_t* which, index width, index channels);

  // Its transpose: every element of the rows da and db is written.
  void (*unpool_row)(const S* dy, const uint8_t* which, S* da, S* db, index width, index channels);

  index lanes;  // elements of C in a vector; rows of z and gz need that many spare elements at their end
};

// The table of the best instruction set of this processor.
template <class S>
const Kernels<S>& table();

// "avx512", "avx2" or "baseline": what table() uses.
const char* instruction_set();

}  // namespace palora
