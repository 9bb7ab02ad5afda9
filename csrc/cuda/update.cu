#include "launch.h"

namespace palora_cuda {
namespace {

template <class S, int V>
__global__ void __launch_bounds__(THREADS, 3) update_kernel(Update u) {
  using namespace update;
  using C = compute_t<S>;
  alignas(16) __shared__ C left[DEPTH * LEFT];
  alignas(16) __shared__ C right[DEPTH * RIGHT<V>];
  int thread = threadIdx.x, lane = thread & ((1 << u.log_lanes) - 1), line = thread >> u.log_lanes;
  Tile tile = tile_of<V>(u, blockIdx.x);
  C total[ROWS][V] = {};
  int inner_columns = u.tasks * u.rank;
  for (int j0 = 0; j0 < inner_columns; j0 += DEPTH) {
    if (j0 > 0) __syncthreads();  // before the tiles that others still read are overwritten
    fill_both<S, V>(u, tile, j0, left, right, thread);
    __syncthreads();
    accumulate<C, V>(total, left + line * ROWS, right + lane * V, DEPTH);
  }
  finish<S, V>(u, tile, total, tile.row + line * ROWS, tile.column + lane * V);
}

template <class S, int V>
void launch_width(Update u, Stream stream) {
  u.log_lanes = log_lanes(rounded_up_quotient(u.columns, V), update::MIN_LOG_LANES, update::MAX_LOG_LANES);
  u.row_tiles = rounded_up_quotient(u.rows, update::ROWS * (THREADS >> u.log_lanes));
  u.column_tiles = rounded_up_quotient(u.columns, index(V) << u.log_lanes);
  launch("low_rank_update", update_kernel<S, V>, u.batches * u.row_tiles * u.column_tiles, u, stream);
}

}  // namespace

void launch_update(Update u, Type type, Stream stream) {
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    if (wide<S>(u.columns, {u.y, u.base.data}, {u.y_batch, u.y_row, u.base.batch, u.base.row}))
      launch_width<S, WIDTH<S>>(u, stream);
    else
      launch_width<S, 1>(u, stream);
  });
}

}  // namespace palora_cuda
