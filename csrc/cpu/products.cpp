// The base products, left to oneDNN and MKL: which of the two was faster, by measurement on two AVX-512 cores.
#include "products.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

namespace palora {
namespace {

using Pointwise = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, std::string_view,
                         c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

// oneDNN's x w^T + b, where this build of torch has it.
const std::optional<c10::TypedOperatorHandle<Pointwise>>& onednn() {
  static const std::optional<c10::TypedOperatorHandle<Pointwise>> found =
      []() -> std::optional<c10::TypedOperatorHandle<Pointwise>> {
    auto handle = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!handle || !handle->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return std::nullopt;
    return handle->typed<Pointwise>();
  }();
  return found;
}

}  // namespace

Tensor product(const Tensor& x, const Tensor& w, const OptionalTensor& bias) {
  int64_t rows = x.size(0), outputs = w.size(0), inner = x.size(1);
  bool large = rows * outputs * int64_t(x.element_size()) > (int64_t(32) << 20);
  bool onednn_wins = x.scalar_type() == at::kFloat && !large && rows * outputs * inner > (int64_t(1) << 23);
  if (onednn_wins && onednn()) return onednn()->call(x, w, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
  Tensor y = empty_result({rows, outputs}, x.scalar_type());
  if (bias.has_value())
    at::addmm_out(y, *bias, x, w.t());
  else
    at::mm_out(y, x, w.t());
  return y;
}

Tensor transposed_product(const Tensor& g, const Tensor& x) {
  Tensor w = empty_result({g.size(1), x.size(1)}, x.scalar_type());
  at::mm_out(w, g.t(), x);
  return w;
}

}  // namespace palora
