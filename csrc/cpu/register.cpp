// The operators of the extension, under the dispatch key CPU. palora_kernels/native/ calls them behind palora's own ops,
// which bring autograd, shapes for the compiler and checked arguments.
#include <torch/library.h>

#include "linear.h"

namespace palora {
namespace {

std::vector<Tensor> linear_backward_boxed(const Tensor& grad, const Tensor& x, const OptionalTensor& weight,
                                          const Tensor& A, const Tensor& B, const Tensor& lam, const Tensor& S,
                                          int64_t bias_dims, std::array<bool, 5> needs, bool shared) {
  return linear_backward(grad, x, weight, A, B, lam, S, bias_dims, needs, shared);
}

std::string instruction_set_name() { return instruction_set(); }

}  // namespace

TORCH_LIBRARY(palora_native, library) {
  library.def("instruction_set() -> str", &instruction_set_name);
  library.def(
      "linear(Tensor x, Tensor? weight, Tensor? bias, Tensor A, Tensor B, Tensor lam, bool shared) "
      "-> (Tensor, Tensor)");
  library.def(
      "linear_backward(Tensor grad, Tensor x, Tensor? weight, Tensor A, Tensor B, Tensor lam, Tensor S, int bias_dims, "
      "bool[5] needs, bool shared) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(palora_native, CPU, library) {
  library.impl("linear", &linear_forward);
  library.impl("linear_backward", &linear_backward_boxed);
}

}  // namespace palora
