#pragma once

#include "common.h"

namespace palora {

// One convolution in channels_last with register tiles, written where the caller says.
//   x (n, C, H, W), kernel (O, C/groups, kh, kw), bias (O) or none, y (n, O, Ho, Wo); all in channels_last memory, float
//   or double. Overwrites y.
void tiled_conv(const Tensor& x, const Tensor& kernel, const OptionalTensor& bias, at::IntArrayRef stride,
                at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, Tensor y);

// Its backward: overwrites dx (n, C, H, W), unless it is none,
//   -> (dkernel (O, C/groups, kh, kw) in channels_last, dbias (O)), each empty where it is not needed.
std::tuple<Tensor, Tensor> tiled_conv_backward(const Tensor& grad, const Tensor& x, const Tensor& kernel,
                                               at::IntArrayRef stride, at::IntArrayRef padding,
                                               at::IntArrayRef dilation, int64_t groups, bool needs_kernel,
                                               bool needs_bias, const OptionalTensor& dx);

}  // namespace palora
