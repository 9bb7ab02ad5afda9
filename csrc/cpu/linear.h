#pragma once

#include "common.h"

namespace palora {

// As palora::linear with the factored plan: returns Y (M*n, O) and S = X B^T, which the backward needs.
std::tuple<Tensor, Tensor> linear_forward(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                                          const Tensor& A, const Tensor& B, const Tensor& lam, bool shared);

// Gradients of x, weight, bias, A, B, lam; `needs` = (x, weight, bias, factors, lam), empty tensors for the rest.
std::vector<Tensor> linear_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& weight, const Tensor& A,
                                    const Tensor& B, const Tensor& lam, const Tensor& S, int64_t bias_dims,
                                    at::ArrayRef<bool> needs, bool shared);

}  // namespace palora
