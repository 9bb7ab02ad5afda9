// The factored plan of `linear`: S = X B^T, Y = X W^T + (S o Lam) A^T + b, and its backward.
//
// With fewer than FUSED_RANK columns in all, the skinny products run in passes over chunks of rows that stay in cache: S
// with the update of Y; U0 = G A with dA, db and dlam; dB with the update of dX. Above that they are GEMMs.
#include "linear.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include "low_rank.h"
#include "products.h"

namespace palora {
namespace {

constexpr int64_t FUSED_RANK = 48;

// The same for whole tensors, rounded to the storage type: (rows of X or Y, R) -> (rows of Y, R).
Tensor weighed(const Sizes& z, const Tensor& s, const Tensor& lam) {
  int64_t copies = s.size(0) == z.n ? 1 : z.rays;
  Tensor wide = s.to(lam.scalar_type()).view({copies, z.n, z.tasks, z.r});
  return wide.mul(lam.view({z.rays, 1, z.tasks, 1})).to(s.scalar_type()).view({z.rays * z.n, z.R});
}

// Y = base + (S o Lam) A^T, and S. Where the rays share X, `base` has n rows and Y rays * n; else they are one tensor.
template <class S>
void forward_rows(const Sizes& z, const Tensor& x, const Tensor& base, const Tensor& y, const Tensor& kept,
                  const Tensor& A, const Tensor& B, const Tensor& lam) {
  using C = compute_t<S>;
  const Kernels<S>& kernel = table<S>();
  const S* source = base.defined() ? data<S>(base) : nullptr;
  int64_t rows = z.rows_of_x(), step = Sizes::chunk(z.K + z.O), copies = z.common ? z.rays : 1;
  over_slots(slots_for(rows, rows * z.R * (z.K + copies * z.O)), rows, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<C> s(step * z.R), weights(step * z.R);
    for (int64_t row = begin; row < end; row += step) {
      int64_t count = std::min(step, end - row);
      kernel.dots(data<S>(x) + row * z.K, z.K, data<C>(B), z.K, s.data(), z.R, count, z.R, z.K);
      for (int64_t i = 0; i < count * z.R; ++i) narrow(s[i], data<S>(kept)[row * z.R + i]);
      for (int64_t m = 0; m < copies; ++m) {
        int64_t target = m * z.n + row;
        weigh(z, s.data(), data<C>(lam), weights.data(), target, count);
        kernel.update(source == nullptr ? nullptr : source + row * z.O, z.O, data<S>(y) + target * z.O, z.O,
                      weights.data(), z.R, data<C>(A), z.O, count, z.R, z.O);
      }
    }
  });
}

// What one pass over G produces. Partial sums have a leading axis of slots; undefined tensors are not wanted.
struct OutSide {
  Tensor U;     // (rows of Y, R): (G A) o Lam
  Tensor dlam;  // (rows of Y, T): row by row
  Tensor dA;    // (slots, R, O)
  Tensor db;    // (slots, O)
};

template <class S>
void backward_rows_of_grad(const Sizes& z, const Tensor& grad, const Tensor& A, const Tensor& lam, const Tensor& kept,
                           const OutSide& out, int64_t slots) {
  using C = compute_t<S>;
  const Kernels<S>& kernel = table<S>();
  int64_t rows = z.rays * z.n, step = Sizes::chunk(z.O);
  over_slots(slots, rows, [&](int64_t slot, int64_t begin, int64_t end) {
    std::vector<C> u(step * z.R), weights(step * z.R);
    for (int64_t row = begin, count; row < end; row += count) {
      int64_t source = z.common ? row % z.n : row;  // the row of S; a chunk does not cross a ray there
      count = std::min({step, end - row, z.common ? z.n - source : step});
      const S* g = data<S>(grad) + row * z.O;
      const S* s = data<S>(kept) + source * z.R;
      if (out.U.defined()) {
        kernel.dots(g, z.O, data<C>(A), z.O, u.data(), z.R, count, z.R, z.O);
        weigh(z, u.data(), data<C>(lam), data<C>(out.U) + row * z.R, row, count);
      }
      if (out.dlam.defined()) {
        C* d = data<C>(out.dlam) + row * z.tasks;
        for (int64_t i = 0; i < count * z.tasks; ++i) {
          C total = 0;
          for (int64_t j = i * z.r; j < (i + 1) * z.r; ++j) total += widened(s[j]) * u[j];
          d[i] = total;
        }
      }
      if (out.dA.defined()) {
        weigh(z, s, data<C>(lam), weights.data(), row, count);
        kernel.outer(weights.data(), z.R, g, z.O, data<C>(out.dA) + slot * z.R * z.O, z.O, count, z.R, z.O);
      }
      if (out.db.defined()) kernel.add_rows(g, z.O, data<C>(out.db) + slot * z.O, count, z.O);
    }
  });
}

// dB partials (slots, R, K) and dX = base + U B, one pass over X; undefined tensors are not wanted. `base` may be dX.
template <class S>
void backward_rows_of_x(const Sizes& z, const Tensor& x, const Tensor& U, const Tensor& B, const Tensor& dB,
                        const Tensor& base, const Tensor& dx, int64_t slots) {
  using C = compute_t<S>;
  const Kernels<S>& kernel = table<S>();
  int64_t rows = z.rows_of_x(), step = Sizes::chunk(z.K);
  over_slots(slots, rows, [&](int64_t slot, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row += step) {
      int64_t count = std::min(step, end - row);
      const C* u = data<C>(U) + row * z.R;
      if (dB.defined())
        kernel.outer(u, z.R, data<S>(x) + row * z.K, z.K, data<C>(dB) + slot * z.R * z.K, z.K, count, z.R, z.K);
      if (dx.defined())
        kernel.update(base.defined() ? data<S>(base) + row * z.K : nullptr, z.K, data<S>(dx) + row * z.K, z.K, u, z.R,
                      data<C>(B), z.K, count, z.R, z.K);
    }
  });
}

void check(const Tensor& x, const Tensor& A, const Tensor& B, const Tensor& lam, bool shared) {
  TORCH_CHECK(x.dim() == 2 && A.dim() == 3 && B.dim() == 3 && lam.dim() == 2, "palora_native::linear: `x` should be ",
              "(P, K), `A` (T, O, r), `B` (T, r, K) and `lam` (M, T).");
  TORCH_CHECK(x.size(1) == B.size(2) && A.size(0) == B.size(0) && A.size(2) == B.size(1) && lam.size(1) == A.size(0),
              "palora_native::linear: shapes do not fit: x ", x.sizes(), ", A ", A.sizes(), ", B ", B.sizes(),
              ", lam ", lam.sizes(), ".");
  TORCH_CHECK(lam.size(0) > 0 && (shared || x.size(0) % lam.size(0) == 0),
              "palora_native::linear: `x` should have M*n rows. Found ", x.size(0), " rows for M = ", lam.size(0), ".");
  TORCH_CHECK(lam.scalar_type() == wide_type(x.scalar_type()), "palora_native::linear: `lam` should be of dtype ",
              wide_type(x.scalar_type()), ". Found ", lam.scalar_type(), ".");
  TORCH_CHECK(A.scalar_type() == x.scalar_type() && B.scalar_type() == x.scalar_type(),
              "palora_native::linear: `x`, `A` and `B` should have one dtype.");
}

Tensor zeros(at::IntArrayRef sizes, at::ScalarType type) { return at::zeros(sizes, at::TensorOptions().dtype(type)); }

}  // namespace

std::tuple<Tensor, Tensor> linear_forward(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                                          const Tensor& A, const Tensor& B, const Tensor& coefficients, bool shared) {
  check(input, A, B, coefficients, shared);
  Tensor x = input.contiguous(), lam = coefficients.contiguous();
  auto type = x.scalar_type(), wide = lam.scalar_type();
  Sizes z(A, B, lam, shared ? x.size(0) * lam.size(0) : x.size(0), shared);
  bool one_bias = bias.has_value() && bias->dim() == 1;
  Tensor base, y, S;
  if (weight.has_value()) base = product(x, *weight, one_bias ? bias : std::nullopt);
  if (z.R >= FUSED_RANK && !z.common && base.defined()) {
    y = base;
    S = at::mm(x, rows_of_B(B, type).t());
    y.addmm_(weighed(z, S, lam), rows_of_A(A, type));
  } else {
    y = base.defined() && !z.common ? base : empty_result({z.rays * z.n, z.O}, type);
    S = at::empty({x.size(0), z.R}, x.options());
    Tensor wide_A = rows_of_A(A, wide), wide_B = rows_of_B(B, wide);
    with_storage(type, [&](auto s) { forward_rows<decltype(s)>(z, x, base, y, S, wide_A, wide_B, lam); });
  }
  if (bias.has_value() && !(one_bias && base.defined())) {
    y.view({z.rays, z.n, z.O}).add_(one_bias ? *bias : bias->unsqueeze(1));
  }
  return {y, S};
}

std::vector<Tensor> linear_backward(const Tensor& gradient, const Tensor& input, const OptionalTensor& weight,
                                    const Tensor& A, const Tensor& B, const Tensor& coefficients, const Tensor& kept,
                                    int64_t bias_dims, at::ArrayRef<bool> needs, bool shared) {
  check(input, A, B, coefficients, shared);
  TORCH_CHECK(needs.size() == 5, "palora_native::linear_backward: `needs` should have 5 entries.");
  bool need_x = needs[0], need_weight = needs[1], need_bias = needs[2], need_factors = needs[3], need_lam = needs[4];
  Tensor grad = gradient.contiguous(), x = input.contiguous(), lam = coefficients.contiguous(), S = kept.contiguous();
  auto type = x.scalar_type(), wide = lam.scalar_type();
  Sizes z(A, B, lam, grad.size(0), shared);
  Tensor common = z.common ? grad.view({z.rays, z.n, z.O}).sum(0) : grad;
  Tensor none = at::empty({0}, x.options()), dx = none, dweight = none, dbias = none, dA = none, dB = none, dlam = none;

  Tensor base;
  if (need_x && weight.has_value()) base = product(common, weight->t(), std::nullopt);
  bool need_U = need_x || need_factors || need_lam;
  if (z.R >= FUSED_RANK && !z.common) {
    Tensor flat_A = rows_of_A(A, type), flat_B = rows_of_B(B, type), U0, U;
    if (need_U) {
      U0 = at::mm(grad, flat_A.t());
      U = weighed(z, U0, lam);
    }
    if (need_x) dx = base.defined() ? base.addmm_(U, flat_B) : at::mm(U, flat_B);
    if (need_factors) {
      dA = at::mm(weighed(z, S, lam).t(), grad);
      dB = at::mm(U.t(), x);
    }
    if (need_lam) dlam = S.to(wide).mul(U0.to(wide)).view({z.rays, z.n, z.tasks, z.r}).sum({1, 3});
    if (need_bias && bias_dims == 1) dbias = common.sum(0);
  } else {
    int64_t slots = slots_for(z.rays * z.n, z.rays * z.n * z.R * z.O);
    OutSide out;
    if (need_U) out.U = at::empty({z.rays * z.n, z.R}, lam.options());
    if (need_lam) out.dlam = at::empty({z.rays * z.n, z.tasks}, lam.options());
    if (need_factors) out.dA = zeros({slots, z.R, z.O}, wide);
    if (need_bias && bias_dims == 1) out.db = zeros({slots, z.O}, wide);
    if (need_U || out.db.defined()) {
      Tensor wide_A = rows_of_A(A, wide);
      with_storage(type,
                   [&](auto s) { backward_rows_of_grad<decltype(s)>(z, grad, wide_A, lam, S, out, slots); });
    }
    if (need_x || need_factors) {
      Tensor U = z.common ? out.U.view({z.rays, z.n, z.R}).sum(0) : out.U, partial, wide_B = rows_of_B(B, wide);
      slots = slots_for(x.size(0), x.size(0) * z.R * z.K);
      if (need_factors) partial = zeros({slots, z.R, z.K}, wide);
      if (need_x) dx = base.defined() ? base : empty_result(x.sizes(), type);
      Tensor target = need_x ? dx : Tensor();
      with_storage(type, [&](auto s) {
        backward_rows_of_x<decltype(s)>(z, x, U, wide_B, partial, base, target, slots);
      });
      if (need_factors) {
        dA = out.dA.sum(0);
        dB = partial.sum(0);
      }
    }
    if (need_lam) dlam = out.dlam.view({z.rays, z.n, z.tasks}).sum(1);
    if (out.db.defined()) dbias = out.db.sum(0).to(type);
  }
  if (need_factors) {
    dA = dA.view({z.tasks, z.r, z.O}).transpose(1, 2).to(type).contiguous();
    dB = dB.view({z.tasks, z.r, z.K}).to(type);
  }
  if (need_weight) dweight = transposed_product(common, x);
  if (need_bias && bias_dims == 2) dbias = grad.view({z.rays, z.n, z.O}).sum(1);
  return {dx, dweight, dbias, dA, dB, dlam};
}

}  // namespace palora
