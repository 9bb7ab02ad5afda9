#pragma once

#include "common.h"

namespace palora {

// x (P, K), w (O, K) of any strides, bias (O) -> x w^T + bias, (P, O).
Tensor product(const Tensor& x, const Tensor& w, const OptionalTensor& bias);

// g (P, O), x (P, K) -> g^T x, (O, K).
Tensor transposed_product(const Tensor& g, const Tensor& x);

}  // namespace palora
