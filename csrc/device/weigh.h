// s o Lam for maps s (samples, tasks * rank, positions): every channel times its ray's and task's coefficient.
//
// As it is (S o Lam and U = U0 o Lam; a sample reads sample % sources), or summed over the rays, which is U where all rays
// share their rows. A matrix of rows is a map with one position.
#pragma once

#include "numbers.h"

namespace palora_cuda {

struct Weigh {
  void* out;         // (samples, channels, positions), contiguous
  const void* s;     // its positions are adjacent
  const void* lam;   // (rays, tasks) in the arithmetic type
  index s_sample, s_channel;
  index samples, channels, positions, sources;
  index samples_per_ray;
  index rays;  // summed over: sample + m * samples of s is weighed by ray m. 0: not summed
  int tasks, rank;
};

namespace weigh {

// Item `item` of samples * channels * (positions / V).
template <class S, int V>
HD void thread(const Weigh& w, index item) {
  using C = compute_t<S>;
  index packs = w.positions / V, line = quotient(item, packs), position = (item - line * packs) * V;
  index sample = quotient(line, w.channels), channel = line - sample * w.channels;
  const C* lam = static_cast<const C*>(w.lam) + quotient(channel, w.rank);
  const S* s = static_cast<const S*>(w.s) + channel * w.s_channel + position;
  C total[V], value[V];
  if (w.rays == 0) {
    index source = sample - quotient(sample, w.sources) * w.sources;
    C factor = lam[quotient(sample, w.samples_per_ray) * w.tasks];
    load<S, V>(s + source * w.s_sample, total);
    UNROLL for (int v = 0; v < V; ++v) total[v] *= factor;
  } else {
    UNROLL for (int v = 0; v < V; ++v) total[v] = 0;
    for (index m = 0; m < w.rays; ++m) {
      C factor = lam[m * w.tasks];
      load<S, V>(s + (m * w.samples + sample) * w.s_sample, value);
      UNROLL for (int v = 0; v < V; ++v) total[v] += factor * value[v];
    }
  }
  store<S, V>(total, static_cast<S*>(w.out) + line * w.positions + position);
}

}  // namespace weigh
}  // namespace palora_cuda
