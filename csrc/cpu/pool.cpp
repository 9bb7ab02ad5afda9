// 2 x 2 max-pooling and ReLU in one pass over channels_last memory. torch's pooling keeps eight bytes of index an output,
// fills the whole gradient with zeros before it scatters, and ReLU is two passes more.
#include "pool.h"

namespace palora {
namespace {

Tensor channels_last(at::IntArrayRef sizes, at::ScalarType type) {
  return at::empty(sizes, at::TensorOptions().dtype(type), at::MemoryFormat::ChannelsLast);
}

void check(const char* name, const Tensor& t) {
  TORCH_CHECK(t.dim() == 4 && t.is_contiguous(at::MemoryFormat::ChannelsLast), "max_pool_relu: `", name,
              "` should be (N, C, H, W) and channels_last. Found ", t.sizes(), ".");
}

}  // namespace

std::tuple<Tensor, Tensor> max_pool_relu(const Tensor& x) {
  check("x", x);
  int64_t N = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3), h = H / 2, w = W / 2;
  Tensor y = channels_last({N, C, h, w}, x.scalar_type()), which = channels_last({N, C, h, w}, at::kByte);
  with_storage(x.scalar_type(), [&](auto zero) {
    using S = decltype(zero);
    const S* from = data<S>(x);
    S* to = data<S>(y);
    uint8_t* won = which.data_ptr<uint8_t>();
    at::parallel_for(0, N * h, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, w * C)), [&](int64_t a, int64_t b) {
      for (int64_t row = a; row < b; ++row) {
        const S* top = from + ((row / h) * H + 2 * (row % h)) * W * C;
        table<S>().pool_row(top, top + W * C, to + row * w * C, won + row * w * C, w, C);
      }
    });
  });
  return {y, which};
}

Tensor max_pool_relu_backward(const Tensor& dy, const Tensor& which, int64_t height, int64_t width) {
  check("dy", dy);
  check("which", which);
  TORCH_CHECK(dy.sizes() == which.sizes() && height / 2 == dy.size(2) && width / 2 == dy.size(3),
              "max_pool_relu: `dy` ", dy.sizes(), " does not fit an input of ", height, " x ", width, ".");
  int64_t N = dy.size(0), C = dy.size(1), h = dy.size(2), w = dy.size(3);
  Tensor dx = channels_last({N, C, height, width}, dy.scalar_type());
  with_storage(dy.scalar_type(), [&](auto zero) {
    using S = decltype(zero);
    const S* from = data<S>(dy);
    const uint8_t* won = which.data_ptr<uint8_t>();
    S* to = data<S>(dx);
    at::parallel_for(0, N, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, h * w * C)), [&](int64_t a, int64_t b) {
      for (int64_t n = a; n < b; ++n) {
        for (int64_t row = 0; row < h; ++row) {
          S* top = to + (n * height + 2 * row) * width * C;
          int64_t at_row = (n * h + row) * w * C;
          table<S>().unpool_row(from + at_row, won + at_row, top, top + width * C, w, C);
          for (S* line : {top, top + width * C})  // an odd last column was not pooled
            std::fill(line + 2 * w * C, line + width * C, S{});
        }
        std::fill(to + (n * height + 2 * h) * width * C, to + (n + 1) * height * width * C, S{});
      }
    });
  });
  return dx;
}

}  // namespace palora
