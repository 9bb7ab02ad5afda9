// The operators of the extension, under the dispatch key CPU. palora_kernels/native/ calls them behind palora's own ops,
// which bring autograd, shapes for the compiler and checked arguments.
//
// The files that use torch are one translation unit: its headers are most of the time that the build takes.
#include <torch/library.h>

#include "adapter.cpp"
#include "autograd.cpp"
#include "common.cpp"
#include "conv.cpp"
#include "linear.cpp"
#include "merge.cpp"
#include "pool.cpp"
#include "products.cpp"
#include "tiled.cpp"

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
      "factored_linear(Tensor x, Tensor? weight, Tensor? bias, Tensor A, Tensor B, Tensor lam, bool shared) -> Tensor");
  library.def(
      "linear_backward(Tensor grad, Tensor x, Tensor? weight, Tensor A, Tensor B, Tensor lam, Tensor S, int bias_dims, "
      "bool[5] needs, bool shared) -> Tensor[]");
  library.def(
      "basis_conv(Tensor x, Tensor kernels, Tensor c, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation) "
      "-> Tensor");
  library.def(
      "basis_conv_backward(Tensor grad, Tensor x, Tensor c, int[2] kernel, int[2] stride, int[2] padding, "
      "int[2] dilation) -> (Tensor, Tensor)");
  library.def(
      "tiled_conv(Tensor x, Tensor kernel, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, int groups, "
      "Tensor(a!) y) -> ()");
  library.def(
      "tiled_conv_backward(Tensor grad, Tensor x, Tensor kernel, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, bool needs_kernel, bool needs_bias, Tensor(a!)? dx) -> (Tensor, Tensor)");
  library.def(
      "merge_rows(Tensor? weight, Tensor A, Tensor B, Tensor columns, ScalarType dtype) -> Tensor");
  library.def(
      "pull_rows(Tensor grad, Tensor A, Tensor B, Tensor columns, Tensor(a!) weight, Tensor(b!) A_sum, "
      "Tensor(c!) B_sum) -> Tensor");
  library.def("low_rank_add(Tensor? base, Tensor S, Tensor A, Tensor lam, bool shared, Tensor(a!) y) -> ()");
  library.def(
      "low_rank_pull(Tensor grad, Tensor S, Tensor A, Tensor lam, bool shared, bool[5] needs) -> Tensor[]");
  library.def("combine_rows(Tensor z, Tensor c) -> Tensor");
  library.def("max_pool_relu(Tensor x) -> (Tensor, Tensor)");
  library.def("max_pool_relu_backward(Tensor dy, Tensor which, int height, int width) -> Tensor");
}

TORCH_LIBRARY_IMPL(palora_native, CPU, library) {
  library.impl("linear", &linear_forward);
  library.impl("factored_linear", &factored_linear);
  library.impl("linear_backward", &linear_backward_boxed);
  library.impl("basis_conv", &basis_conv);
  library.impl("basis_conv_backward", &basis_conv_backward);
  library.impl("tiled_conv", &tiled_conv);
  library.impl("tiled_conv_backward", &tiled_conv_backward);
  library.impl("merge_rows", &merge_rows);
  library.impl("pull_rows", &pull_rows);
  library.impl("low_rank_add", &low_rank_add);
  library.impl("low_rank_pull", &low_rank_pull);
  library.impl("combine_rows", &combine_rows);
  library.impl("max_pool_relu", &max_pool_relu);
  library.impl("max_pool_relu_backward", &max_pool_relu_backward);
}

TORCH_LIBRARY_IMPL(palora_native, AutogradCPU, library) {
  library.impl("factored_linear", &factored_linear_with_gradient);
}

}  // namespace palora
