// y[b, row, column] = base + sum_j left[row, j] lam[ray, task(j)] right[column, j] + bias, a product with few inner columns.
//
// One definition serves the low-rank epilogue Y = X W^T + (S o Lam) A^T + b (stacked rows, rows shared by all rays,
// NHWC and NCHW maps), the U B part of dX, and merging: W_m = W + sum_t lam_mt A_t B_t for all rays at once.
//
// A block computes a tile of y. Its threads are `lanes` columns of V numbers wide and THREADS / lanes rows high, ROWS rows
// each. The inner columns pass through shared memory, DEPTH at a time, already multiplied by lam and widened.
#pragma once

#include "numbers.h"

namespace palora_cuda {

// A matrix per batch and task: element (b, t, line, k) lies at b*batch + t*task + line*line_stride + k*inner.
struct Operand {
  const void* data;
  index batch, task, line, inner;
};

// A matrix per batch with adjacent columns. `data` may be null for nothing.
struct Plane {
  const void* data;
  index batch, row;
};

struct Update {
  void* y;
  index y_batch, y_row;
  Plane base;
  Operand left, right;  // lines are rows of y, and columns of y
  const void* lam;      // (rays, tasks) in the arithmetic type, or null for ones
  const void* bias;     // or null
  index bias_ray, bias_row, bias_column;
  index batches, rows, columns;
  index sources;                        // batch b reads batch b % sources of base, left and right
  index batches_per_ray, rows_per_ray;  // ray = b / batches_per_ray + row / rows_per_ray
  int tasks, rank;                      // inner columns: tasks * rank
  int log_lanes;
  index row_tiles, column_tiles;
};

namespace update {

constexpr int ROWS = 4, DEPTH = 8, MIN_LOG_LANES = 2, MAX_LOG_LANES = 5;
constexpr int LEFT = ROWS * (THREADS >> MIN_LOG_LANES);  // rows of the highest tile
template <int V>
constexpr int RIGHT = V << MAX_LOG_LANES;  // columns of the widest tile

struct Tile {
  index batch, source, row, column;  // of its first element
  int rows, columns;                 // powers of two times ROWS and V
};

template <int V>
HD Tile tile_of(const Update& u, uint32_t block) {
  uint32_t batches = static_cast<uint32_t>(u.batches), across = static_cast<uint32_t>(u.column_tiles);
  uint32_t place = block / batches;  // batches first: neighbouring blocks share base, left and right
  Tile tile;
  tile.batch = block % batches;
  tile.source = tile.batch % u.sources;
  tile.rows = ROWS * (THREADS >> u.log_lanes);
  tile.columns = V << u.log_lanes;
  tile.row = static_cast<index>(place / across) * tile.rows;
  tile.column = static_cast<index>(place % across) * tile.columns;
  return tile;
}

template <class S>
HD compute_t<S> element(const Operand& o, index source, index line, int j, int rank) {
  index at = source * o.batch + (j / rank) * o.task + line * o.line + (j % rank) * o.inner;
  return widen(static_cast<const S*>(o.data)[at]);
}

// One thread's part of filling a tile [DEPTH][stride] with `count` lines from `first` on and inner columns from j0 on.
// Neighbouring threads read neighbouring addresses. What lies outside becomes zero. `factor(line, j)` multiplies.
template <class S, class Factor>
HD void fill(compute_t<S>* tile, int stride, const Operand& o, index source, index first, int count, index lines, int j0,
             int inner_columns, int rank, int thread, Factor factor) {
  for (int i = thread; i < DEPTH * count; i += THREADS) {
    int depth = o.inner == 1 ? i % DEPTH : i / count, line = o.inner == 1 ? i / DEPTH : i % count;
    int j = j0 + depth;
    compute_t<S> value = 0;
    if (first + line < lines && j < inner_columns)
      value = element<S>(o, source, first + line, j, rank) * factor(first + line, j);
    tile[depth * stride + line] = value;
  }
}

template <class S, int V>
HD void fill_both(const Update& u, const Tile& tile, int j0, compute_t<S>* left, compute_t<S>* right, int thread) {
  using C = compute_t<S>;
  int inner_columns = u.tasks * u.rank;
  const C* lam = static_cast<const C*>(u.lam);
  index ray = quotient(tile.batch, u.batches_per_ray);
  fill<S>(left, LEFT, u.left, tile.source, tile.row, tile.rows, u.rows, j0, inner_columns, u.rank, thread,
          [&](index row, int j) {
            return lam == nullptr ? C(1) : lam[(ray + quotient(row, u.rows_per_ray)) * u.tasks + j / u.rank];
          });
  fill<S>(right, RIGHT<V>, u.right, tile.source, tile.column, tile.columns, u.columns, j0, inner_columns, u.rank, thread,
          [](index, int) { return C(1); });
}

// total[i][v] += left[j][i] right[j][v] over the tile's depth: ROWS x V numbers of a thread.
template <class C, int V>
HD void accumulate(C (&total)[ROWS][V], const C* left, const C* right, int depth) {
  UNROLL_BY(2) for (int j = 0; j < depth; ++j, left += LEFT, right += RIGHT<V>) {  // by more spills on sm_100
    C across[V];
    UNROLL for (int v = 0; v < V; ++v) across[v] = right[v];
    UNROLL for (int i = 0; i < ROWS; ++i) {
      C down = left[i];
      UNROLL for (int v = 0; v < V; ++v) total[i][v] += down * across[v];
    }
  }
}

// Adds base and bias and writes: the sum is rounded once. V > 1 only where every access is aligned and columns % V == 0.
template <class S, int V>
HD void finish(const Update& u, const Tile& tile, const compute_t<S> (&total)[ROWS][V], index row, index column) {
  using C = compute_t<S>;
  if (column >= u.columns) return;
  const S* bias = static_cast<const S*>(u.bias);
  UNROLL for (int i = 0; i < ROWS; ++i) {
    if (row + i >= u.rows) break;
    C out[V];
    if (u.base.data != nullptr) {
      load<S, V>(static_cast<const S*>(u.base.data) + tile.source * u.base.batch + (row + i) * u.base.row + column, out);
    } else {
      UNROLL for (int v = 0; v < V; ++v) out[v] = 0;
    }
    UNROLL for (int v = 0; v < V; ++v) out[v] += total[i][v];
    if (bias != nullptr) {
      index ray = quotient(tile.batch, u.batches_per_ray) + quotient(row + i, u.rows_per_ray);
      const S* from = bias + ray * u.bias_ray + (row + i) * u.bias_row + column * u.bias_column;
      UNROLL for (int v = 0; v < V; ++v) out[v] += widen(from[v * u.bias_column]);
    }
    store<S, V>(out, static_cast<S*>(u.y) + tile.batch * u.y_batch + (row + i) * u.y_row + column);
  }
}

}  // namespace update
}  // namespace palora_cuda
