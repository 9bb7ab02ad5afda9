// Passes over the rows of a layer's result that are not products: adding the low-rank part, pulling its gradient, combining
// basis outputs into rays. Every element of the result is read or written once.
#include "adapter.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "low_rank.h"

namespace palora {
namespace {

Sizes sizes_of(const char* name, const Tensor& S, const Tensor& A, const Tensor& lam, int64_t rows_of_y, bool shared) {
  TORCH_CHECK(S.dim() == 2 && A.dim() == 3 && lam.dim() == 2 && A.size(0) == lam.size(1) &&
                  S.size(1) == A.size(0) * A.size(2) && lam.size(0) > 0 && rows_of_y % lam.size(0) == 0,
              name, ": `S` should be (P, T*r), `A` (T, O, r) and `lam` (M, T). Found ", S.sizes(), ", ", A.sizes(), ", ",
              lam.sizes(), ".");
  Sizes z(A, A, lam, rows_of_y, shared);
  TORCH_CHECK(S.size(0) == z.rows_of_x() && S.is_contiguous() && lam.scalar_type() == wide_type(S.scalar_type()), name,
              ": `S` should be contiguous with ", z.rows_of_x(), " rows, and `lam` of dtype ",
              wide_type(S.scalar_type()), ".");
  return z;
}

template <class S>
void add_low_rank(const Sizes& z, const Tensor& base, const Tensor& s, const Tensor& A, const Tensor& lam,
                  const Tensor& y) {
  using C = compute_t<S>;
  const Kernels<S>& kernel = table<S>();
  const S* source = base.defined() ? data<S>(base) : nullptr;
  int64_t rows = z.rows_of_x(), step = Sizes::chunk(z.O), copies = z.common ? z.rays : 1;
  over_slots(slots_for(rows, rows * z.R * copies * z.O), rows, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<C> weights(step * z.R);
    for (int64_t row = begin; row < end; row += step) {
      int64_t count = std::min(step, end - row);
      for (int64_t m = 0; m < copies; ++m) {
        int64_t target = m * z.n + row;
        weigh(z, data<S>(s) + row * z.R, data<C>(lam), weights.data(), target, count);
        kernel.update(source == nullptr ? nullptr : source + row * z.O, z.O, data<S>(y) + target * z.O, z.O,
                      weights.data(), z.R, data<C>(A), z.O, count, z.R, z.O);
      }
    }
  });
}

// Undefined tensors are not wanted; those with a leading axis of slots are partial sums.
struct Pulled {
  Tensor sum;   // (P, O)
  Tensor U;     // (P, R)
  Tensor dA;    // (slots, R, O)
  Tensor dlam;  // (slots, M, T)
  Tensor db;    // (slots, O)
};

template <class S>
void pull_low_rank(const Sizes& z, const Tensor& grad, const Tensor& s, const Tensor& A, const Tensor& lam,
                   const Pulled& out, int64_t slots) {
  using C = compute_t<S>;
  const Kernels<S>& kernel = table<S>();
  int64_t rows = z.rows_of_x(), copies = z.common ? z.rays : 1, step = Sizes::chunk(z.O * copies);
  bool project = out.U.defined() || out.dlam.defined();
  std::vector<C> ones(copies, C(1));
  over_slots(slots, rows, [&](int64_t slot, int64_t begin, int64_t end) {
    std::vector<C> u(step * z.R), weights(step * z.R), total(step * z.R);
    for (int64_t row = begin; row < end; row += step) {
      int64_t count = std::min(step, end - row);
      const S* kept = data<S>(s) + row * z.R;
      std::fill(total.begin(), total.end(), C(0));
      for (int64_t m = 0; m < copies; ++m) {
        int64_t target = m * z.n + row;
        const S* g = data<S>(grad) + target * z.O;
        if (project) kernel.dots(g, z.O, data<C>(A), z.O, u.data(), z.R, count, z.R, z.O);
        if (out.U.defined()) {
          weigh(z, u.data(), data<C>(lam), weights.data(), target, count);
          for (int64_t i = 0; i < count * z.R; ++i) total[i] += weights[i];
        }
        if (out.dlam.defined())
          for (int64_t i = 0; i < count; ++i) {
            C* d = data<C>(out.dlam) + (slot * z.rays + (target + i) / z.n) * z.tasks;
            for (int64_t j = 0; j < z.R; ++j) d[j / z.r] += widened(kept[i * z.R + j]) * u[i * z.R + j];
          }
        if (out.dA.defined()) {
          weigh(z, kept, data<C>(lam), weights.data(), target, count);
          kernel.outer(weights.data(), z.R, g, z.O, data<C>(out.dA) + slot * z.R * z.O, z.O, count, z.R, z.O);
        }
        if (out.db.defined()) kernel.add_rows(g, z.O, data<C>(out.db) + slot * z.O, count, z.O);
      }
      if (out.U.defined())
        for (int64_t i = 0; i < count * z.R; ++i) narrow(total[i], data<S>(out.U)[row * z.R + i]);
      if (out.sum.defined())  // the chunks of all rays are in cache
        kernel.mix(data<S>(grad) + row * z.O, z.n * z.O, 0, data<S>(out.sum) + row * z.O, 0, 0, ones.data(), copies,
                   nullptr, 0, 1, copies, 1, count * z.O);
    }
  });
}

}  // namespace

void low_rank_add(const OptionalTensor& base, const Tensor& S, const Tensor& A, const Tensor& coefficients, bool shared,
                  Tensor y) {
  constexpr const char* name = "palora_native::low_rank_add";
  Tensor lam = coefficients.contiguous();
  Sizes z = sizes_of(name, S, A, lam, shared ? S.size(0) * lam.size(0) : S.size(0), shared);
  TORCH_CHECK(!base.has_value() || (base->is_contiguous() && base->dim() == 2 && base->size(0) == z.rows_of_x() &&
                                    base->size(1) == z.O && base->scalar_type() == S.scalar_type()),
              name, ": `base` should be contiguous, (", z.rows_of_x(), ", ", z.O, "), in the dtype of `S`.");
  TORCH_CHECK(y.is_contiguous() && y.dim() == 2 && y.size(0) == z.rays * z.n && y.size(1) == z.O &&
                  y.scalar_type() == S.scalar_type(),
              name, ": `y` should be contiguous, (", z.rays * z.n, ", ", z.O, "), in the dtype of `S`.");
  Tensor source = base.value_or(Tensor()), flat = rows_of_A(A, lam.scalar_type());
  with_storage(S.scalar_type(), [&](auto s) { add_low_rank<decltype(s)>(z, source, S, flat, lam, y); });
}

std::vector<Tensor> low_rank_pull(const Tensor& grad, const Tensor& S, const Tensor& A, const Tensor& coefficients,
                                  bool shared, std::array<bool, 5> needs) {
  constexpr const char* name = "palora_native::low_rank_pull";
  Tensor lam = coefficients.contiguous();
  TORCH_CHECK(grad.dim() == 2 && grad.is_contiguous() && grad.scalar_type() == S.scalar_type(), name,
              ": `grad` should be contiguous, (M*n, O), in the dtype of `S`.");
  Sizes z = sizes_of(name, S, A, lam, grad.size(0), shared);
  auto wide = lam.options();
  int64_t slots = slots_for(z.rows_of_x(), z.rays * z.n * z.O * (2 * z.R + 1));
  Pulled out;
  if (needs[0]) out.sum = z.common ? empty_result({z.n, z.O}, grad.scalar_type()) : Tensor();
  if (needs[1]) out.U = at::empty({z.rows_of_x(), z.R}, S.options());
  if (needs[2]) out.dA = at::zeros({slots, z.R, z.O}, wide);
  if (needs[3]) out.dlam = at::zeros({slots, z.rays, z.tasks}, wide);
  if (needs[4]) out.db = at::zeros({slots, z.O}, wide);
  Tensor flat = rows_of_A(A, lam.scalar_type());
  with_storage(S.scalar_type(), [&](auto s) { pull_low_rank<decltype(s)>(z, grad, S, flat, lam, out, slots); });
  Tensor none = at::empty({0}, S.options());
  return {needs[0] ? (z.common ? out.sum : grad) : none,
          needs[1] ? out.U : none,
          needs[2] ? out.dA.sum(0).view({z.tasks, z.r, z.O}).transpose(1, 2).to(S.scalar_type()).contiguous() : none,
          needs[3] ? out.dlam.sum(0) : none,
          needs[4] ? out.db.sum(0).to(S.scalar_type()) : none};
}

Tensor combine_rows(const Tensor& z, const Tensor& c) {
  constexpr const char* name = "palora_native::combine_rows";
  TORCH_CHECK(z.dim() == 2 && c.dim() == 2 && c.size(1) == z.size(0) && z.is_contiguous() && c.is_contiguous() &&
                  c.scalar_type() == wide_type(z.scalar_type()),
              name, ": `z` should be (B, N) and `c` (A, B), contiguous, `c` in the arithmetic type. Found ", z.sizes(),
              " and ", c.sizes(), ".");
  int64_t A = c.size(0), B = c.size(1), N = z.size(1);
  Tensor out = empty_result({A, N}, z.scalar_type());
  with_storage(z.scalar_type(), [&](auto s) {
    using S = decltype(s);
    using C = compute_t<S>;
    constexpr int64_t chunk = 4096;  // the inputs of a chunk are read once per output: from cache
    over_slots(slots_for((N + chunk - 1) / chunk, N * A * B), N, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += chunk)
        table<S>().mix(data<S>(z) + i, N, 0, data<S>(out) + i, N, 0, data<C>(c), B, nullptr, 0, A, B, 1,
                       std::min(chunk, end - i));
    });
  });
  return out;
}

}  // namespace palora
