// Merging a weight and pulling the gradient of a merged weight back, in one pass over the weight each.
#include "merge.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

namespace palora {
namespace {

struct Matrices {
  int64_t p, q, R;

  Matrices(const char* name, const Tensor& A, const Tensor& B, const Tensor& columns)
      : p(A.size(0)), q(B.size(1)), R(A.size(1)) {
    TORCH_CHECK(A.dim() == 2 && B.dim() == 2 && B.size(0) == R && columns.numel() == R, name,
                ": `A` should be (p, R), `B` (R, q) and `columns` (R). Found ", A.sizes(), ", ", B.sizes(), " and ",
                columns.sizes(), ".");
    TORCH_CHECK(A.is_contiguous() && B.is_contiguous() && columns.is_contiguous() &&
                    B.scalar_type() == A.scalar_type() && columns.scalar_type() == A.scalar_type(),
                name, ": `A`, `B` and `columns` should be contiguous and of one dtype.");
  }
};

// out = A o columns for the rows [begin, end).
template <class C>
void weigh_columns(const Matrices& z, const C* A, const C* columns, C* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i)
    for (int64_t j = 0; j < z.R; ++j) *out++ = A[i * z.R + j] * columns[j];
}

}  // namespace

Tensor merge_rows(const OptionalTensor& weight, const Tensor& A, const Tensor& B, const Tensor& columns,
                  at::ScalarType type) {
  Matrices z("palora_native::merge_rows", A, B, columns);
  TORCH_CHECK(A.scalar_type() == wide_type(type), "palora_native::merge_rows: `A` should be of dtype ", wide_type(type),
              ".");
  TORCH_CHECK(!weight.has_value() ||
                  (weight->is_contiguous() && weight->numel() == z.p * z.q && weight->scalar_type() == type),
              "palora_native::merge_rows: `weight` should be contiguous with ", z.p * z.q, " elements of dtype ", type,
              ".");
  Tensor out = empty_result({z.p, z.q}, type);
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    using C = compute_t<S>;
    const S* base = weight.has_value() ? data<S>(*weight) : nullptr;
    over_slots(slots_for(z.p, z.p * z.q * (z.R + 2)), z.p, [&](int64_t, int64_t begin, int64_t end) {
      std::vector<C> weights((end - begin) * z.R);
      weigh_columns(z, data<C>(A), data<C>(columns), weights.data(), begin, end);
      table<S>().update(base == nullptr ? nullptr : base + begin * z.q, z.q, data<S>(out) + begin * z.q, z.q,
                        weights.data(), z.R, data<C>(B), z.q, end - begin, z.R, z.q);
    });
  });
  return out;
}

Tensor pull_rows(const Tensor& grad, const Tensor& A, const Tensor& B, const Tensor& columns, Tensor weight_sum,
                 Tensor A_sum, Tensor B_sum) {
  Matrices z("palora_native::pull_rows", A, B, columns);
  TORCH_CHECK(grad.is_contiguous() && grad.numel() == z.p * z.q && wide_type(grad.scalar_type()) == A.scalar_type(),
              "palora_native::pull_rows: `grad` should be contiguous with ", z.p * z.q, " elements.");
  for (const Tensor& sum : {weight_sum, A_sum, B_sum})
    TORCH_CHECK(sum.is_contiguous() && sum.scalar_type() == A.scalar_type(),
                "palora_native::pull_rows: sums should be contiguous and of the dtype of `A`.");
  bool want_weight = weight_sum.numel() > 0, want_factors = A_sum.numel() > 0;
  int64_t slots = slots_for(z.p, z.p * z.q * (2 * z.R + 1));
  Tensor dots = at::zeros({slots, z.R}, A.options()), partial;
  if (want_factors) partial = at::zeros({slots, z.R, z.q}, A.options());
  with_storage(grad.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using C = compute_t<S>;
    const Kernels<S>& kernel = table<S>();
    const C one = 1;
    over_slots(slots, z.p, [&](int64_t slot, int64_t begin, int64_t end) {
      constexpr int64_t STEP = 8;
      std::vector<C> projected(STEP * z.R), weights(STEP * z.R);
      for (int64_t row = begin; row < end; row += STEP) {
        int64_t count = std::min(STEP, end - row);
        const S* g = data<S>(grad) + row * z.q;
        kernel.dots(g, z.q, data<C>(B), z.q, projected.data(), z.R, count, z.R, z.q);
        for (int64_t i = 0; i < count; ++i)
          for (int64_t j = 0; j < z.R; ++j) {
            C value = projected[i * z.R + j];
            data<C>(dots)[slot * z.R + j] += value * data<C>(A)[(row + i) * z.R + j];
            if (want_factors) data<C>(A_sum)[(row + i) * z.R + j] += value * data<C>(columns)[j];
          }
        if (want_factors) {
          weigh_columns(z, data<C>(A), data<C>(columns), weights.data(), row, row + count);
          kernel.outer(weights.data(), z.R, g, z.q, data<C>(partial) + slot * z.R * z.q, z.q, count, z.R, z.q);
        }
        if (want_weight)  // an outer product with the vector (1): the sum over one row
          for (int64_t i = 0; i < count; ++i)
            kernel.outer(&one, 1, g + i * z.q, z.q, data<C>(weight_sum) + (row + i) * z.q, z.q, 1, 1, z.q);
      }
    });
  });
  if (want_factors) B_sum.add_(partial.sum(0).view_as(B_sum));
  return dots.sum(0);
}

}  // namespace palora
