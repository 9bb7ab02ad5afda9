// Runs CUDA kernels on the host: a block's threads are fibres that take turns, in a random order, at every barrier.
// What a missing barrier would leave to chance is therefore wrong here, and a sanitizer sees every access.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __syncthreads host_shim::barrier

namespace host_shim {

struct Index {
  unsigned x;
};

struct Fibre {
  static constexpr size_t STACK = 1 << 17;
  std::unique_ptr<char[]> stack{new char[STACK]};
  ucontext_t context;
  bool done;
};

inline Index thread_index, block_index;
inline ucontext_t scheduler;
inline Fibre* current;
inline const std::function<void()>* body;

inline void barrier() { swapcontext(&current->context, &scheduler); }

inline void enter() {
  (*body)();
  current->done = true;
  barrier();
}

inline void run_block(std::vector<Fibre>& fibres, std::vector<unsigned>& turns, std::mt19937& random) {
  for (Fibre& fibre : fibres) {
    fibre.done = false;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = Fibre::STACK;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, enter, 0);
  }
  for (size_t done = 0; done < fibres.size();) {
    std::shuffle(turns.begin(), turns.end(), random);
    for (unsigned turn : turns) {
      thread_index.x = turn;
      current = &fibres[turn];
      swapcontext(&scheduler, &current->context);
    }
    done = std::count_if(fibres.begin(), fibres.end(), [](const Fibre& f) { return f.done; });
    if (done != 0 && done != fibres.size()) throw std::runtime_error("some threads of a block miss a barrier");
  }
}

inline void run(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  static std::mt19937 random(std::getenv("HOST_SHIM_SEED") ? std::atoi(std::getenv("HOST_SHIM_SEED")) : 0);
  static std::vector<Fibre> fibres;
  std::lock_guard<std::mutex> guard(one_at_a_time);
  if (fibres.size() != threads) fibres = std::vector<Fibre>(threads);
  std::vector<unsigned> turns(threads), order(blocks);
  std::iota(turns.begin(), turns.end(), 0u);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), random);
  body = &kernel;
  for (unsigned block : order) {
    block_index.x = block;
    run_block(fibres, turns, random);
  }
}

}  // namespace host_shim

static host_shim::Index &threadIdx = host_shim::thread_index, &blockIdx = host_shim::block_index;
