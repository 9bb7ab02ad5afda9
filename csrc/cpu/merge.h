#pragma once

#include "common.h"

namespace palora {

// weight + (A o lam) B for one ray, one pass: A (p, R) and B (R, q) in the arithmetic type, row-major; columns (R) are
// lam's entries, one a column of A; weight (p*q elements in the order of the product) in storage type, or none.
// Returns p*q elements in that order, in `type`.
Tensor merge_rows(const OptionalTensor& weight, const Tensor& A, const Tensor& B, const Tensor& columns,
                  at::ScalarType type);

// The gradient of one merged weight pulled back, one pass: grad (p, q) in storage type.
//   weight += grad; A += (grad B^T) o columns; B += (A o columns)^T grad; returns sum_p (grad B^T) o A, (R).
// The sums are in the arithmetic type and are changed in place; empty ones are left out.
Tensor pull_rows(const Tensor& grad, const Tensor& A, const Tensor& B, const Tensor& columns, Tensor weight_sum,
                 Tensor A_sum, Tensor B_sum);

}  // namespace palora
