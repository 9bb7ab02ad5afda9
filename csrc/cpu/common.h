// What the operators share: dispatch over storage types, ranges for threads, memory for large results.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "kernels.h"

namespace palora {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Calls f with a value of the storage type: f(float()), f(double()) or f(bf16()).
template <class F>
void with_storage(at::ScalarType type, F f) {
  switch (type) {
    case at::kFloat:
      return f(float());
    case at::kDouble:
      return f(double());
    case at::kBFloat16:
      return f(bf16());
    default:
      TORCH_CHECK_TYPE(false, "the native backend computes in float32, float64 and bfloat16. Found ", type, ".");
  }
}

inline at::ScalarType wide_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

template <class S>
S* data(const Tensor& t) {
  return static_cast<S*>(t.data_ptr());
}

// Splits [0, count) into one contiguous range per slot and runs f(slot, begin, end), slots in parallel. A slot's partial
// sums are added up in the order of the slots afterwards, so that a result does not depend on which thread came first.
inline int64_t slots_for(int64_t count, int64_t work) {
  constexpr int64_t worth_a_thread = 1 << 15;
  return std::max<int64_t>(1, std::min<int64_t>({at::get_num_threads(), count, work / worth_a_thread}));
}
template <class F>
void over_slots(int64_t slots, int64_t count, F f) {
  at::parallel_for(0, slots, 1, [&](int64_t first, int64_t last) {
    for (int64_t slot = first; slot < last; ++slot) f(slot, count * slot / slots, count * (slot + 1) / slots);
  });
}

// An uninitialised tensor. Results that the allocator must fetch from the system anyway (over 32 MB) get huge pages:
// touching them 4 KB at a time costs more than computing them.
Tensor empty_result(at::IntArrayRef sizes, at::ScalarType type);

}  // namespace palora
