// The factored linear layer with its gradient attached in C++: for small layers, going through Python twice and through
// the dispatcher three times costs as much as the layer.
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/custom_function.h>

#include "linear.h"

namespace palora {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Whether somebody watches this backward: vmap and other transforms, tensors of Python's own, or a dispatch mode as
// that of FlopCounterMode. They know the public op, and nothing of what goes on inside it.
bool watched(const Tensor& grad) {
  constexpr c10::DispatchKeySet wrappers({c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched,
                                          c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Functionalize,
                                          c10::DispatchKey::Python});
  return grad.key_set().has_any(wrappers) || c10::impl::TorchDispatchModeTLS::any_modes_set();
}

// The public op's backward: it says what a second derivative needs, and has rules for those who watch.
std::vector<Tensor> public_backward(const Tensor& grad, const variable_list& saved, int64_t bias_dims,
                                            const std::vector<bool>& needs, bool shared) {
  auto op = c10::Dispatcher::singleton().findSchemaOrThrow("palora::linear_backward", "");
  c10::List<bool> flags;
  for (bool need : needs) flags.push_back(need);
  torch::jit::Stack stack{grad, saved[0]};
  stack.emplace_back(saved[1].defined() ? c10::IValue(saved[1]) : c10::IValue());
  for (int i = 2; i < 6; ++i) stack.emplace_back(saved[i]);
  stack.emplace_back(bias_dims);
  stack.emplace_back(std::move(flags));
  stack.emplace_back(shared);
  stack.emplace_back("native.factored");
  op.callBoxed(stack);
  std::vector<Tensor> found;
  for (const auto& gradient : stack) found.push_back(gradient.toTensor());
  return found;
}

struct Factored : torch::autograd::Function<Factored> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& weight,
                        const OptionalTensor& bias, const Tensor& A, const Tensor& B, const Tensor& lam, bool shared) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, S] = linear_forward(x, weight, bias, A, B, lam, shared);
    ctx->save_for_backward({x, weight.value_or(Tensor()), A, B, lam, S});
    ctx->saved_data["bias_dims"] = bias.has_value() ? bias->dim() : int64_t(0);
    ctx->saved_data["shared"] = shared;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list saved = ctx->get_saved_variables();
    int64_t bias_dims = ctx->saved_data["bias_dims"].toInt();
    bool shared = ctx->saved_data["shared"].toBool();
    // The edges of the graph count the tensors that were given; arguments count all.
    bool given[6] = {true, saved[1].defined(), bias_dims > 0, true, true, true}, wanted[6];
    size_t edge = 0;
    for (int i = 0; i < 6; ++i) wanted[i] = given[i] && ctx->needs_input_grad(edge++);
    std::vector<bool> needs{wanted[0], wanted[1], wanted[2], wanted[3] || wanted[4], wanted[5]};
    std::vector<Tensor> found;
    if (at::GradMode::is_enabled() || watched(grads[0])) {
      found = public_backward(grads[0], saved, bias_dims, needs, shared);
    } else {
      at::AutoDispatchBelowADInplaceOrView below;
      OptionalTensor weight = saved[1].defined() ? OptionalTensor(saved[1]) : std::nullopt;
      std::array<bool, 5> flags{needs[0], needs[1], needs[2], needs[3], needs[4]};
      found = linear_backward(grads[0], saved[0], weight, saved[2], saved[3], saved[4], saved[5], bias_dims, flags,
                              shared);
    }
    variable_list result(7);
    for (size_t i = 0; i < 6; ++i)
      if (wanted[i]) result[i] = found[i];
    return result;
  }
};

}  // namespace

Tensor factored_linear_with_gradient(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                                     const Tensor& A, const Tensor& B, const Tensor& lam, bool shared) {
  return Factored::apply(x, weight, bias, A, B, lam, shared);
}

Tensor factored_linear(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& A,
                       const Tensor& B, const Tensor& lam, bool shared) {
  return std::get<0>(linear_forward(x, weight, bias, A, B, lam, shared));
}

}  // namespace palora
