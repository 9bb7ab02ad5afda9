// out[g, a] = base + sum_b c[g, a, b] z[g, b] + bias: combinations of B tensors into A tensors, in groups.
//
// Forward: the T+1 basis outputs into M rays (one group, A = M, B = T+1), or ray by ray (M groups, A = 1). Backward: the
// gradients of M rays into those of T+1 products. Dense deltas: M merged weights, and their gradients pulled back.
#pragma once

#include "numbers.h"

namespace palora_cuda {

struct Combine {
  void* out;
  const void *z, *base, *c, *bias;  // base and bias may be null; c is in the arithmetic type
  index out_group, out_a, out_row;  // strides; columns are adjacent everywhere except in bias
  index z_group, z_b, z_row;
  index base_group, base_a, base_row;
  index c_group, c_a;
  index bias_group, bias_a, bias_row, bias_column, bias_period;  // row `row` reads bias row `row % bias_period`
  index groups, A, B, rows, columns;
};

namespace combine {

constexpr int OUTPUTS = 4;  // that a thread sums at the same time

// Item `item` of groups * rows * (columns / V): V adjacent columns of a row, for all outputs.
template <class S, int V>
HD void thread(const Combine& m, index item) {
  using C = compute_t<S>;
  index packs = m.columns / V, line = quotient(item, packs), column = (item - line * packs) * V;
  index group = quotient(line, m.rows), row = line - group * m.rows;
  const S* z = static_cast<const S*>(m.z) + group * m.z_group + row * m.z_row + column;
  const C* c = static_cast<const C*>(m.c) + group * m.c_group;
  const S* base = static_cast<const S*>(m.base);
  const S* bias = static_cast<const S*>(m.bias);
  S* out = static_cast<S*>(m.out) + group * m.out_group + row * m.out_row + column;
  for (index first = 0; first < m.A; first += OUTPUTS) {
    C total[OUTPUTS][V];
    UNROLL for (int i = 0; i < OUTPUTS; ++i) {
      UNROLL for (int v = 0; v < V; ++v) total[i][v] = 0;
    }
    for (index b = 0; b < m.B; ++b) {
      C value[V];
      load<S, V>(z + b * m.z_b, value);
      UNROLL for (int i = 0; i < OUTPUTS; ++i) {
        C factor = first + i < m.A ? c[(first + i) * m.c_a + b] : C(0);
        UNROLL for (int v = 0; v < V; ++v) total[i][v] += factor * value[v];
      }
    }
    UNROLL for (int i = 0; i < OUTPUTS; ++i) {
      index a = first + i;
      if (a < m.A) {
        if (base != nullptr) {
          C value[V];
          load<S, V>(base + group * m.base_group + a * m.base_a + row * m.base_row + column, value);
          UNROLL for (int v = 0; v < V; ++v) total[i][v] += value[v];
        }
        if (bias != nullptr) {
          index period_row = row - quotient(row, m.bias_period) * m.bias_period;
          const S* from = bias + group * m.bias_group + a * m.bias_a + period_row * m.bias_row + column * m.bias_column;
          UNROLL for (int v = 0; v < V; ++v) total[i][v] += widen(from[v * m.bias_column]);
        }
        store<S, V>(total[i], out + a * m.out_a);
      }
    }
  }
}

}  // namespace combine
}  // namespace palora_cuda
