// Sums in a fixed order, without atomics: a thread adds what it reads, a block adds its threads in a tree, and where
// several blocks share a sum they write parts into a workspace that a second launch adds.
#pragma once

#include "numbers.h"

namespace palora_cuda {

// out[g, column] = sum_row x[g, row, column] (* y[g, row, column]): the gradient of a bias, and dlam before its rank is
// summed.
struct ColumnSums {
  void* out;           // (groups, chunks, columns) in the arithmetic type
  const void *x, *y;   // y may be null
  index x_group, x_row, y_group, y_row;
  index groups, rows, columns;
  index chunk, chunks;  // rows of a block, and blocks over the rows
  int log_lanes;        // a block is 2^log_lanes * V columns wide
  index column_tiles;
};

// out[sample, channel] = sum_position x[sample, channel, position] (* y[sample % sources, channel, position]).
struct PlaneSums {
  void* out;  // (samples, channels) in the arithmetic type
  const void *x, *y;
  index x_sample, x_channel, y_sample, y_channel;
  index planes, channels, positions, sources;
  int log_lanes;  // 2^log_lanes threads of a block share a plane
};

// out[chunk, g, t] = sum over a chunk of row and column of x[g, row, column] y[g, t, row, column]: <G_m, Z_t>.
struct Dots {
  void* out;  // (chunks, groups, tasks) in the arithmetic type
  const void *x, *y;
  index x_group, x_row, y_group, y_task, y_row;
  index groups, tasks, rows, columns;
  index chunk, chunks;  // packs of V numbers of a block, and blocks over them
  index task_tiles;
};

namespace sums {

constexpr int TASKS = 4;  // inner products that a block forms at the same time

template <class S, int V>
HD void add_columns(const ColumnSums& s, index group, index row, index last, index step, index column,
                    compute_t<S> (&total)[V]) {
  const S* x = static_cast<const S*>(s.x) + group * s.x_group + column;
  const S* y = static_cast<const S*>(s.y) + group * s.y_group + column;
  for (; row < last; row += step) {
    compute_t<S> value[V], other[V];
    load<S, V>(x + row * s.x_row, value);
    if (s.y != nullptr) {
      load<S, V>(y + row * s.y_row, other);
      UNROLL for (int v = 0; v < V; ++v) value[v] *= other[v];
    }
    UNROLL for (int v = 0; v < V; ++v) total[v] += value[v];
  }
}

template <class S, int V>
HD compute_t<S> add_plane(const PlaneSums& s, index plane, int lane) {
  using C = compute_t<S>;
  index sample = quotient(plane, s.channels), channel = plane - sample * s.channels;
  const S* x = static_cast<const S*>(s.x) + sample * s.x_sample + channel * s.x_channel;
  const S* y = static_cast<const S*>(s.y);
  if (y != nullptr) y += (sample - quotient(sample, s.sources) * s.sources) * s.y_sample + channel * s.y_channel;
  C total = 0;
  for (index at = static_cast<index>(lane) * V; at < s.positions; at += static_cast<index>(V) << s.log_lanes) {
    C value[V], other[V];
    load<S, V>(x + at, value);
    if (y != nullptr) {
      load<S, V>(y + at, other);
      UNROLL for (int v = 0; v < V; ++v) value[v] *= other[v];
    }
    UNROLL for (int v = 0; v < V; ++v) total += value[v];
  }
  return total;
}

template <class S, int V>
HD void add_products(const Dots& d, index group, index first_task, index pack, index last, compute_t<S> (&total)[TASKS]) {
  using C = compute_t<S>;
  const S* x = static_cast<const S*>(d.x) + group * d.x_group;
  const S* y = static_cast<const S*>(d.y) + group * d.y_group;
  index packs = d.columns / V;
  for (; pack < last; pack += THREADS) {
    index row = quotient(pack, packs), column = (pack - row * packs) * V;
    C value[V], other[V];
    load<S, V>(x + row * d.x_row + column, value);
    UNROLL for (int t = 0; t < TASKS; ++t) {
      if (first_task + t < d.tasks) {
        load<S, V>(y + (first_task + t) * d.y_task + row * d.y_row + column, other);
        UNROLL for (int v = 0; v < V; ++v) total[t] += value[v] * other[v];
      }
    }
  }
}

}  // namespace sums
}  // namespace palora_cuda
