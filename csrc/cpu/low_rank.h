// Rows times skinny factors: what `linear` and the adapters of convolutions share.
#pragma once

#include <cstring>

#include "common.h"

namespace palora {
namespace {

struct Sizes {
  int64_t rays, n, tasks, r, R, K, O;
  bool common;  // several rays share the n rows of X

  Sizes(const Tensor& A, const Tensor& B, const Tensor& lam, int64_t rows_of_y, bool shared)
      : rays(lam.size(0)),
        n(rows_of_y / rays),
        tasks(A.size(0)),
        r(A.size(2)),
        R(tasks * r),
        K(B.size(2)),
        O(A.size(1)),
        common(shared && rays > 1) {}

  int64_t rows_of_x() const { return common ? n : rays * n; }
  // Rows of a chunk: so many that rows of this width stay in half of a megabyte of cache.
  static int64_t chunk(int64_t width) { return std::clamp<int64_t>((1 << 17) / (width + 1), 4, 256) / 4 * 4; }
};

// A (T, O, r) -> (R, O) and B (T, r, K) -> (R, K). A view may call itself contiguous at r = 1 whatever its strides, so
// rows are always taken a size apart, never a stride.
Tensor rows_of_A(const Tensor& A, at::ScalarType type) {
  return A.transpose(1, 2).reshape({A.size(0) * A.size(2), A.size(1)}).to(type).contiguous();
}
Tensor rows_of_B(const Tensor& B, at::ScalarType type) {
  return B.reshape({B.size(0) * B.size(1), B.size(2)}).to(type).contiguous();
}

float widened(bf16 v) {
  uint32_t bits = uint32_t(v.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}
float widened(float v) { return v; }
double widened(double v) { return v; }
void narrow(float v, bf16& out) { out.bits = c10::BFloat16(v).x; }
void narrow(float v, float& out) { out = v; }
void narrow(double v, double& out) { out = v; }

// out = s o Lam for `count` rows, the first of which is row `row` of Y.
template <class S, class C>
void weigh(const Sizes& z, const S* s, const C* lam, C* out, int64_t row, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const C* coefficients = lam + (row + i) / z.n * z.tasks;
    for (int64_t t = 0; t < z.tasks; ++t)
      for (int64_t j = 0; j < z.r; ++j) *out++ = widened(*s++) * coefficients[t];
  }
}

}  // namespace
}  // namespace palora
