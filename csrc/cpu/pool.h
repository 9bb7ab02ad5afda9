#pragma once

#include "common.h"

namespace palora {

// relu(max_pool2d(x, 2)) in one pass: x (N, C, H, W), channels_last. Returns y (N, C, H/2, W/2), channels_last, and which
// of the four pixels won, uint8 of y's shape and layout (4: none, ReLU was flat).
std::tuple<Tensor, Tensor> max_pool_relu(const Tensor& x);

// The gradient of x (N, C, height, width), channels_last, from that of y, channels_last.
Tensor max_pool_relu_backward(const Tensor& dy, const Tensor& which, int64_t height, int64_t width);

}  // namespace palora
