// Checked launches, and the choices that every kernel's host side makes.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "kernels.h"

#ifndef __CUDACC__  // the tests compile the kernels for the host, with a shim that runs a block's threads one by one
#include "host_shim.h"
#endif

namespace palora_cuda {

inline void check_grid(const char* name, index blocks) {
  if (blocks > 0x7fffffff)
    throw std::runtime_error(std::string("palora_native: ") + name + " needs " + std::to_string(blocks) +
                             " blocks, more than a grid has.");
}

#ifdef __CUDACC__
// Runs `blocks` blocks of THREADS threads; none if there is nothing to do.
template <class Work>
void launch(const char* name, void (*kernel)(Work), index blocks, const Work& work, Stream stream) {
  check_grid(name, blocks);
  if (blocks == 0) return;
  kernel<<<static_cast<unsigned>(blocks), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(work);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("palora_native: launching ") + name + " failed: " + cudaGetErrorString(error));
}
#else
template <class Work>
void launch(const char* name, void (*kernel)(Work), index blocks, const Work& work, Stream) {
  check_grid(name, blocks);
  host_shim::run(static_cast<unsigned>(blocks), THREADS, [&] { kernel(work); });
}
#endif

// Calls f with a value of the storage type.
template <class F>
void with_storage(Type type, F f) {
  switch (type) {
    case Type::Float:
      return f(float());
    case Type::Double:
      return f(double());
    case Type::BFloat16:
      return f(bf16());
    case Type::Half:
      return f(fp16());
  }
}

// Whether 16 bytes may be moved at a time: rows are a multiple of them, and so are all distances and addresses.
template <class S>
bool wide(index adjacent, std::initializer_list<const void*> pointers, std::initializer_list<index> strides) {
  auto fits = [](index stride) { return stride % WIDTH<S> == 0; };
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return fits(adjacent) && std::all_of(strides.begin(), strides.end(), fits) &&
         std::all_of(pointers.begin(), pointers.end(), aligned);
}

// The smallest exponent in [low, high] with 2^exponent >= count, or `high`.
inline int log_lanes(index count, int low, int high) {
  int log = low;
  while (log < high && (index(1) << log) < count) ++log;
  return log;
}

}  // namespace palora_cuda
