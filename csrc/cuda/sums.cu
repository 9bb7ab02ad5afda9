#include "launch.h"

namespace palora_cuda {
namespace {

// Adds W numbers over `count` (a power of two) threads that lie `distance` apart; `position` is this thread's place among
// them. The sums are left at [w * THREADS + thread] of the threads with position 0, who alone may read them then.
template <class C, int W>
__device__ void tree_sum(C* shared, const C (&mine)[W], int thread, int position, int count, int distance) {
  UNROLL for (int w = 0; w < W; ++w) shared[w * THREADS + thread] = mine[w];
  for (int half = count / 2; half > 0; half /= 2) {
    __syncthreads();
    if (position < half) {
      UNROLL for (int w = 0; w < W; ++w)
        shared[w * THREADS + thread] += shared[w * THREADS + thread + half * distance];
    }
  }
}

template <class S, int V>
__global__ void __launch_bounds__(THREADS) column_sums_kernel(ColumnSums s) {
  using C = compute_t<S>;
  __shared__ C shared[V * THREADS];
  uint32_t tiles = static_cast<uint32_t>(s.column_tiles), chunks = static_cast<uint32_t>(s.chunks);
  uint32_t tile = blockIdx.x % tiles, part = blockIdx.x / tiles, chunk = part % chunks, group = part / chunks;
  int thread = threadIdx.x, lanes = 1 << s.log_lanes, lane = thread & (lanes - 1), line = thread >> s.log_lanes;
  index column = (static_cast<index>(tile) * lanes + lane) * V, first = chunk * s.chunk;
  index last = first + s.chunk < s.rows ? first + s.chunk : s.rows;
  C total[V] = {};
  if (column < s.columns)
    sums::add_columns<S, V>(s, group, first + line, last, THREADS >> s.log_lanes, column, total);
  tree_sum<C, V>(shared, total, thread, line, THREADS >> s.log_lanes, lanes);
  if (line == 0 && column < s.columns) {
    C* out = static_cast<C*>(s.out) + static_cast<index>(part) * s.columns + column;
    for (int v = 0; v < V; ++v) out[v] = shared[v * THREADS + thread];
  }
}

template <class S, int V>
__global__ void __launch_bounds__(THREADS) plane_sums_kernel(PlaneSums s) {
  using C = compute_t<S>;
  __shared__ C shared[THREADS];
  int thread = threadIdx.x, lanes = 1 << s.log_lanes, lane = thread & (lanes - 1), line = thread >> s.log_lanes;
  index plane = static_cast<index>(blockIdx.x) * (THREADS >> s.log_lanes) + line;
  C total[1] = {0};
  if (plane < s.planes) total[0] = sums::add_plane<S, V>(s, plane, lane);
  tree_sum<C, 1>(shared, total, thread, lane, lanes, 1);
  if (lane == 0 && plane < s.planes) static_cast<C*>(s.out)[plane] = shared[thread];
}

template <class S, int V>
__global__ void __launch_bounds__(THREADS) dots_kernel(Dots d) {
  using C = compute_t<S>;
  __shared__ C shared[sums::TASKS * THREADS];
  uint32_t tiles = static_cast<uint32_t>(d.task_tiles), groups = static_cast<uint32_t>(d.groups);
  uint32_t tile = blockIdx.x % tiles, part = blockIdx.x / tiles, group = part % groups, chunk = part / groups;
  index packs = d.rows * (d.columns / V), first = chunk * d.chunk, task = static_cast<index>(tile) * sums::TASKS;
  index last = first + d.chunk < packs ? first + d.chunk : packs;
  C total[sums::TASKS] = {};
  sums::add_products<S, V>(d, group, task, first + threadIdx.x, last, total);
  tree_sum<C, sums::TASKS>(shared, total, threadIdx.x, threadIdx.x, THREADS, 1);
  if (threadIdx.x == 0) {
    C* out = static_cast<C*>(d.out) + static_cast<index>(part) * d.tasks + task;
    for (int t = 0; t < sums::TASKS && task + t < d.tasks; ++t) out[t] = shared[t * THREADS];
  }
}

template <class S, int V>
void column_sums_width(ColumnSums s, Stream stream) {
  s.log_lanes = log_lanes(rounded_up_quotient(s.columns, V), 0, 5);
  s.column_tiles = rounded_up_quotient(s.columns, index(V) << s.log_lanes);
  s.chunk = rounded_up_quotient(s.rows, s.chunks);
  launch("column_sums", column_sums_kernel<S, V>, s.groups * s.chunks * s.column_tiles, s, stream);
}

template <class S, int V>
void plane_sums_width(PlaneSums s, Stream stream) {
  s.log_lanes = log_lanes(rounded_up_quotient(s.positions, V), 0, 8);
  launch("plane_sums", plane_sums_kernel<S, V>, rounded_up_quotient(s.planes, THREADS >> s.log_lanes), s, stream);
}

template <class S, int V>
void dots_width(Dots d, Stream stream) {
  d.task_tiles = rounded_up_quotient(d.tasks, sums::TASKS);
  d.chunk = rounded_up_quotient(d.rows * (d.columns / V), d.chunks);
  launch("dots", dots_kernel<S, V>, d.groups * d.chunks * d.task_tiles, d, stream);
}

index chunks_of(index count, index least) { return std::clamp<index>(count / least, 1, 256); }

}  // namespace

index column_sum_chunks(index rows) { return chunks_of(rows, 256); }

index dots_chunks(index elements) { return chunks_of(elements, 8192); }

void launch_column_sums(ColumnSums s, Type type, Stream stream) {
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    if (wide<S>(s.columns, {s.x, s.y}, {s.x_group, s.x_row, s.y_group, s.y_row}))
      column_sums_width<S, WIDTH<S>>(s, stream);
    else
      column_sums_width<S, 1>(s, stream);
  });
}

void launch_plane_sums(PlaneSums s, Type type, Stream stream) {
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    if (wide<S>(s.positions, {s.x, s.y}, {s.x_sample, s.x_channel, s.y_sample, s.y_channel}))
      plane_sums_width<S, WIDTH<S>>(s, stream);
    else
      plane_sums_width<S, 1>(s, stream);
  });
}

void launch_dots(Dots d, Type type, Stream stream) {
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    if (wide<S>(d.columns, {d.x, d.y}, {d.x_group, d.x_row, d.y_group, d.y_task, d.y_row}))
      dots_width<S, WIDTH<S>>(d, stream);
    else
      dots_width<S, 1>(d, stream);
  });
}

}  // namespace palora_cuda
