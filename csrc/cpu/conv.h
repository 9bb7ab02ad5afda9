#pragma once

#include "common.h"

namespace palora {

// E convolutions of one input, combined into M outputs without storing the E maps.
//   x (n, C, H, W), kernels (E, O, C, kh, kw), c (M, E), bias (O) or (M, O), one group
//   -> (M*n, O, Ho, Wo) in channels_last.
Tensor basis_conv(const Tensor& x, const Tensor& kernels, const Tensor& c, const OptionalTensor& bias,
                  at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation);

// Kernel gradients of basis_conv for combinations of the rays: with g_e = sum_m c[e, m] grad_m,
//   -> (dkernels (E, O, C, kh, kw), sums of g_e (E, O)), both in the arithmetic type.
std::tuple<Tensor, Tensor> basis_conv_backward(const Tensor& grad, const Tensor& x, const Tensor& c,
                                               at::IntArrayRef kernel, at::IntArrayRef stride,
                                               at::IntArrayRef padding, at::IntArrayRef dilation);

}  // namespace palora
