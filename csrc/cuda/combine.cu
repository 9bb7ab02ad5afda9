#include "launch.h"

namespace palora_cuda {
namespace {

template <class S, int V>
__global__ void __launch_bounds__(THREADS) combine_kernel(Combine m) {
  index item = static_cast<index>(blockIdx.x) * THREADS + threadIdx.x;
  if (item < m.groups * m.rows * (m.columns / V)) combine::thread<S, V>(m, item);
}

template <class S, int V>
__global__ void __launch_bounds__(THREADS) weigh_kernel(Weigh w) {
  index item = static_cast<index>(blockIdx.x) * THREADS + threadIdx.x;
  if (item < w.samples * w.channels * (w.positions / V)) weigh::thread<S, V>(w, item);
}

template <class S, int V>
void combine_width(const Combine& m, Stream stream) {
  launch("combine", combine_kernel<S, V>, rounded_up_quotient(m.groups * m.rows * (m.columns / V), THREADS), m, stream);
}

template <class S, int V>
void weigh_width(const Weigh& w, Stream stream) {
  launch("weigh", weigh_kernel<S, V>, rounded_up_quotient(w.samples * w.channels * (w.positions / V), THREADS), w,
         stream);
}

}  // namespace

void launch_combine(const Combine& m, Type type, Stream stream) {
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    if (wide<S>(m.columns, {m.out, m.z, m.base},
                {m.out_group, m.out_a, m.out_row, m.z_group, m.z_b, m.z_row, m.base_group, m.base_a, m.base_row}))
      combine_width<S, WIDTH<S>>(m, stream);
    else
      combine_width<S, 1>(m, stream);
  });
}

void launch_weigh(const Weigh& w, Type type, Stream stream) {
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    if (wide<S>(w.positions, {w.out, w.s}, {w.s_sample, w.s_channel}))
      weigh_width<S, WIDTH<S>>(w, stream);
    else
      weigh_width<S, 1>(w, stream);
  });
}

}  // namespace palora_cuda
