#pragma once

#include "common.h"

namespace palora {

// The low-rank part of a layer whose base product and S = X B^T something else has computed: a convolution, row by
// position. P is M*n rows, ray-major, or the n rows that all rays share.
//   Y (M*n, O) = base (P, O) + (S (P, R) o Lam) A^T, A (T, O, r), lam (M, T). `base` may be none, and y itself where P = M*n.
void low_rank_add(const OptionalTensor& base, const Tensor& S, const Tensor& A, const Tensor& lam, bool shared,
                  Tensor y);

// Its backward in one pass over grad (M*n, O): (sum of grad over the rays (P, O) if shared, U (P, R): the gradient of S,
// dA (T, O, r), dlam (M, T), the sum over rows (O)), each empty where it is not needed.
std::vector<Tensor> low_rank_pull(const Tensor& grad, const Tensor& S, const Tensor& A, const Tensor& lam, bool shared,
                                  std::array<bool, 5> needs);

// out (A, N) = c (A, B) z (B, N): combinations of basis outputs into rays, or of gradients of rays into the basis's, in one
// pass over memory.
Tensor combine_rows(const Tensor& z, const Tensor& c);

}  // namespace palora
