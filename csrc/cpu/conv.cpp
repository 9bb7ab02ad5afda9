// Convolutions whose input all rays share, for few input channels and small kernels (the first layer of a network).
//
// One output row at a time: the E basis convolutions of that row stay in cache and are combined into M rows of the result
// at once. Backward reads each of the M gradient rows once, reduces them to E rows in cache, and adds their products with
// the input into a sum per slot. Everything is channels_last inside: positions times channels are contiguous.
#include "conv.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

namespace palora {
namespace {

struct Shape {
  int64_t n, C, H, W, O, kh, kw, Ho, Wo, E, M;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;

  int64_t padded_width() const { return (W + 2 * pad_w) * C; }
};

Shape shape_of(const char* name, const Tensor& x, int64_t O, at::IntArrayRef kernel, int64_t E, int64_t M,
               at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  TORCH_CHECK(x.dim() == 4, name, ": `x` should be (n, C, H, W). Found ", x.sizes(), ".");
  TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2 && kernel.size() == 2, name,
              ": the kernel, stride, padding and dilation should be pairs.");
  Shape z;
  z.n = x.size(0), z.C = x.size(1), z.H = x.size(2), z.W = x.size(3);
  z.O = O, z.kh = kernel[0], z.kw = kernel[1], z.E = E, z.M = M;
  z.stride_h = stride[0], z.stride_w = stride[1], z.pad_h = padding[0], z.pad_w = padding[1];
  z.dilation_h = dilation[0], z.dilation_w = dilation[1];
  int64_t reach_h = z.H + 2 * z.pad_h - z.dilation_h * (z.kh - 1) - 1;
  int64_t reach_w = z.W + 2 * z.pad_w - z.dilation_w * (z.kw - 1) - 1;
  TORCH_CHECK(reach_h >= 0 && reach_w >= 0, name, ": `x` should be at least as large as the kernel after padding.");
  z.Ho = reach_h / z.stride_h + 1, z.Wo = reach_w / z.stride_w + 1;
  return z;
}

Tensor channels_last(const Tensor& t) { return t.contiguous(at::MemoryFormat::ChannelsLast).permute({0, 2, 3, 1}).contiguous(); }

// Copies the kh input rows behind output row `h` of image `i`, zero-padded and widened, to `out`.
template <class S, class C>
void gather_rows(const Shape& z, const S* x, int64_t i, int64_t h, C* out) {
  for (int64_t y = 0; y < z.kh; ++y, out += z.padded_width()) {
    int64_t row = h * z.stride_h - z.pad_h + y * z.dilation_h;
    if (row < 0 || row >= z.H) {
      std::fill(out, out + z.padded_width(), C(0));
      continue;
    }
    std::fill(out, out + z.pad_w * z.C, C(0));
    table<S>().widen(x + (i * z.H + row) * z.W * z.C, out + z.pad_w * z.C, z.W * z.C);
    std::fill(out + (z.pad_w + z.W) * z.C, out + z.padded_width(), C(0));
  }
}

template <class S>
void forward_rows(const Shape& z, const Tensor& x, const Tensor& packed, const Tensor& c, const Tensor& bias_rows,
                  const Tensor& y) {
  using C = compute_t<S>;
  const Kernels<S>& kernel = table<S>();
  int64_t rows = z.n * z.Ho, length = z.Wo * z.O, ldz = length + kernel.lanes, columns = c.size(1);
  int64_t work = rows * length * (z.E * z.kh * z.kw * z.C + z.M * columns);
  over_slots(slots_for(rows, work), rows, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<C> window(z.kh * z.padded_width()), maps(columns * ldz, C(0));
    for (int64_t b = 0; b < columns - z.E; ++b)
      std::copy_n(data<C>(bias_rows) + b * length, length, maps.data() + (z.E + b) * ldz);
    for (int64_t row = begin; row < end; ++row) {
      gather_rows(z, data<S>(x), row / z.Ho, row % z.Ho, window.data());
      kernel.conv_row(window.data(), z.padded_width(), data<C>(packed), maps.data(), ldz, z.kh, z.kw, z.C, z.stride_w,
                      z.dilation_w, z.Wo, z.E, z.O);
      kernel.combine_row(maps.data(), ldz, data<S>(y) + row * length, rows * length, data<C>(c), columns, z.M, columns,
                         length);
    }
  });
}

template <class S>
void backward_rows(const Shape& z, const Tensor& grad, const Tensor& x, const Tensor& c, const Tensor& sums,
                   const Tensor& bias_sums, int64_t slots) {
  using C = compute_t<S>;
  const Kernels<S>& kernel = table<S>();
  int64_t rows = z.n * z.Ho, length = z.Wo * z.O, ldz = length + kernel.lanes;
  int64_t size = sums.stride(0);
  over_slots(slots, rows, [&](int64_t slot, int64_t begin, int64_t end) {
    std::vector<C> window(z.kh * z.padded_width()), maps(z.E * ldz, C(0));
    for (int64_t row = begin; row < end; ++row) {
      gather_rows(z, data<S>(x), row / z.Ho, row % z.Ho, window.data());
      kernel.reduce_row(data<S>(grad) + row * length, rows * length, maps.data(), ldz, data<C>(c), z.M, z.E, z.M,
                        length);
      kernel.conv_row_kernel(window.data(), z.padded_width(), maps.data(), ldz, data<C>(sums) + slot * size, z.kh,
                             z.kw, z.C, z.stride_w, z.dilation_w, z.Wo, z.E, z.O);
      for (int64_t e = 0; e < z.E; ++e)
        table<C>().add_rows(maps.data() + e * ldz, z.O, data<C>(bias_sums) + (slot * z.E + e) * z.O, z.Wo, z.O);
    }
  });
}

int64_t lanes(at::ScalarType type) { return type == at::kDouble ? table<double>().lanes : table<float>().lanes; }
int64_t padded(int64_t O, at::ScalarType type) { return (O + lanes(type) - 1) / lanes(type) * lanes(type); }

}  // namespace

Tensor basis_conv(const Tensor& x, const Tensor& kernels, const Tensor& c, const OptionalTensor& bias,
                  at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  constexpr const char* name = "palora_native::basis_conv";
  TORCH_CHECK(kernels.dim() == 5 && c.dim() == 2 && c.size(1) == kernels.size(0) && x.dim() == 4 &&
                  kernels.size(2) == x.size(1),
              name, ": `kernels` should be (E, O, C, kh, kw), `c` (M, E) and `x` (n, C, H, W). Found ", kernels.sizes(),
              ", ", c.sizes(), " and ", x.sizes(), ".");
  auto type = x.scalar_type(), wide = wide_type(type);
  Shape z = shape_of(name, x, kernels.size(1), kernels.sizes().slice(3), kernels.size(0), c.size(0), stride, padding,
                     dilation);
  // A bias is one more basis map, constant over positions: of every ray, or of one each.
  Tensor columns = c.to(wide), bias_rows;
  if (bias.has_value()) {
    Tensor rows = bias->dim() == 1 ? bias->unsqueeze(0) : *bias;
    bias_rows = rows.to(wide).unsqueeze(1).expand({rows.size(0), z.Wo, z.O}).contiguous();
    columns = at::cat({columns, bias->dim() == 1 ? at::ones({z.M, 1}, columns.options())
                                                 : at::eye(z.M, columns.options())}, 1);
  }
  columns = columns.contiguous();
  Tensor packed = at::constant_pad_nd(kernels.to(wide).permute({3, 4, 2, 0, 1}), {0, padded(z.O, wide) - z.O});
  packed = packed.contiguous();
  Tensor images = channels_last(x), y = empty_result({z.M * z.n, z.Ho, z.Wo, z.O}, type);
  with_storage(type, [&](auto s) { forward_rows<decltype(s)>(z, images, packed, columns, bias_rows, y); });
  return y.permute({0, 3, 1, 2});
}

std::tuple<Tensor, Tensor> basis_conv_backward(const Tensor& grad, const Tensor& x, const Tensor& c,
                                               at::IntArrayRef kernel, at::IntArrayRef stride,
                                               at::IntArrayRef padding, at::IntArrayRef dilation) {
  constexpr const char* name = "palora_native::basis_conv_backward";
  TORCH_CHECK(grad.dim() == 4 && c.dim() == 2 && grad.scalar_type() == x.scalar_type(), name,
              ": `grad` should be (M*n, O, Ho, Wo) in the dtype of `x`, and `c` (E, M).");
  auto type = x.scalar_type(), wide = wide_type(type);
  Shape z = shape_of(name, x, grad.size(1), kernel, c.size(0), c.size(1), stride, padding, dilation);
  TORCH_CHECK(grad.size(0) == z.M * z.n && grad.size(2) == z.Ho && grad.size(3) == z.Wo, name,
              ": `grad` should have shape (", z.M * z.n, ", O, ", z.Ho, ", ", z.Wo, "). Found ", grad.sizes(), ".");
  Tensor images = channels_last(x), gradients = channels_last(grad), coefficients = c.to(wide).contiguous();
  int64_t rows = z.n * z.Ho, taps = z.kh * z.kw * z.C, width = padded(z.O, wide);
  int64_t slots = slots_for(rows, rows * z.Wo * z.O * z.E * taps);
  auto options = at::TensorOptions().dtype(wide);
  Tensor sums = at::zeros({slots, taps, z.E, width}, options), bias_sums = at::zeros({slots, z.E, z.O}, options);
  with_storage(type, [&](auto s) {
    backward_rows<decltype(s)>(z, gradients, images, coefficients, sums, bias_sums, slots);
  });
  Tensor total = sums.sum(0).view({z.kh, z.kw, z.C, z.E, width}).slice(4, 0, z.O);
  return {total.permute({3, 4, 2, 0, 1}).contiguous(), bias_sums.sum(0)};
}

}  // namespace palora
