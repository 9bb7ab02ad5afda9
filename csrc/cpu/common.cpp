#include "common.h"

#include <sys/mman.h>

namespace palora {

Tensor empty_result(at::IntArrayRef sizes, at::ScalarType type) {
  Tensor t = at::empty(sizes, at::TensorOptions().dtype(type));
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t least = 32u << 20, page = 2u << 20;
  if (t.nbytes() > least) {
    uintptr_t begin = reinterpret_cast<uintptr_t>(t.data_ptr()), end = begin + t.nbytes();
    begin = (begin + page - 1) & ~(page - 1);
    end &= ~(page - 1);
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: failure is harmless
  }
#endif
  return t;
}

}  // namespace palora
