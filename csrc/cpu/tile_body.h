// The loops behind tiles.h. Included by body.h, inside PALORA_ISA: P positions (or channels) times N vectors of outputs
// stay in registers while everything that adds to them streams past. A vector costs the same however few of its lanes
// are wanted, so with wide vectors a short rest takes one of half the width.

constexpr int BLOCK_VECTORS = WIDE ? 4 : 2;
constexpr bool HALVES = WIDE;

template <class C>
struct half_of {
  typedef C type __attribute__((vector_size(BYTES / 2)));
};
template <class C>
using Half = typename half_of<C>::type;

// N whole vectors and, with HALF, one more of half the width; of the last one only m lanes are wanted.
template <class C, int N, bool HALF>
struct Outputs {
  static constexpr index width = N * L<C> + (HALF ? L<C> / 2 : 0);
  V<C> v[N > 0 ? N : 1];
  Half<C> h;
};

template <class C, int N, bool HALF>
INLINE void read(Outputs<C, N, HALF>& out, const C* p) {
  UNROLL for (int n = 0; n < N; ++n) { out.v[n] = load(p + n * L<C>); }
  if constexpr (HALF) __builtin_memcpy(&out.h, p + N * L<C>, sizeof(out.h));
}

// Only the wanted lanes are touched in memory.
template <class C, int N, bool HALF>
INLINE void read_part(Outputs<C, N, HALF>& out, const C* p, index m) {
  constexpr int whole = HALF ? N : N - 1;
  UNROLL for (int n = 0; n < whole; ++n) { out.v[n] = load(p + n * L<C>); }
  V<C> last = load_part(p + whole * L<C>, m);
  if constexpr (HALF)
    __builtin_memcpy(&out.h, &last, sizeof(out.h));
  else
    out.v[N - 1] = last;
}
template <class C, int N, bool HALF>
INLINE void write(C* p, const Outputs<C, N, HALF>& out) {
  UNROLL for (int n = 0; n < N; ++n) { store(p + n * L<C>, out.v[n]); }
  if constexpr (HALF) __builtin_memcpy(p + N * L<C>, &out.h, sizeof(out.h));
}
template <class C, int N, bool HALF>
INLINE void write_part(C* p, const Outputs<C, N, HALF>& out, index m) {
  constexpr int whole = HALF ? N : N - 1;
  UNROLL for (int n = 0; n < whole; ++n) { store(p + n * L<C>, out.v[n]); }
  V<C> last = zero<C>();
  if constexpr (HALF)
    __builtin_memcpy(&last, &out.h, sizeof(out.h));
  else
    last = out.v[N - 1];
  store_part(p + whole * L<C>, last, m);
}

template <class C, int N, bool HALF>
INLINE void add_product(Outputs<C, N, HALF>& total, C x, const Outputs<C, N, HALF>& w) {
  V<C> xv = splat<C>(x);
  UNROLL for (int n = 0; n < N; ++n) { total.v[n] += xv * w.v[n]; }
  if constexpr (HALF) total.h += x * w.h;
}

// As many rows of N vectors as the registers hold beside N operands and a broadcast.
template <int N>
constexpr int MOST_ROWS = WIDE ? (N == 4 ? 6 : N == 3 ? 8 : 12) : (N == 2 ? 6 : 12);

template <class C, int P, int N, bool HALF>
void conv_tile(const C* x, index ldx, const Taps& t, index col_begin, index col_end, index depth, const C* w,
               const C* bias, C* y, index ldy, index m) {
  using Out = Outputs<C, N, HALF>;
  constexpr index last = HALF ? L<C> / 2 : L<C>;
  Out total[P] = {};
  if (bias != nullptr) {
    Out start;
    if (m == last)
      read(start, bias);
    else
      read_part(start, bias, m);
    UNROLL for (int p = 0; p < P; ++p) { total[p] = start; }
  }
  for (index a = t.row_begin; a < t.row_end; ++a) {
    for (index b = col_begin; b < col_end; ++b) {
      const C* wt = w + (a * t.cols + b) * depth * Out::width;
      // One pointer for three positions: the others are reached as pointer + ldx and pointer + 2 ldx.
      const C* xt[(P + 2) / 3];
      UNROLL for (int q = 0; q < (P + 2) / 3; ++q) { xt[q] = x + a * t.row_step + b * t.col_step + 3 * q * ldx; }
      for (index k = 0; k < depth; ++k) {
        Out wv;
        read(wv, wt);
        UNROLL for (int p = 0; p < P; ++p) { add_product(total[p], xt[p / 3][(p % 3) * ldx], wv); }
        wt += Out::width;
        UNROLL for (int q = 0; q < (P + 2) / 3; ++q) { ++xt[q]; }
      }
    }
  }
  UNROLL for (int p = 0; p < P; ++p) {
    if (m == last)
      write(y + p * ldy, total[p]);
    else
      write_part(y + p * ldy, total[p], m);
  }
}

template <class C, int P, int N, bool HALF>
void conv_tile_of(index count, const C* x, index ldx, const Taps& t, index col_begin, index col_end, index depth,
                  const C* w, const C* bias, C* y, index ldy, index m) {
  if (count == P) return conv_tile<C, P, N, HALF>(x, ldx, t, col_begin, col_end, depth, w, bias, y, ldy, m);
  if constexpr (P > 1)
    conv_tile_of<C, P - 1, N, HALF>(count, x, ldx, t, col_begin, col_end, depth, w, bias, y, ldy, m);
}

template <class C, int N, bool HALF>
void conv_positions(const C* x, index ldx, const Taps& t, index depth, const C* w, const C* bias, C* y, index ldy,
                    index positions, index m) {
  constexpr int MOST = MOST_ROWS<N + HALF>;
  index pieces = (positions + MOST - 1) / MOST;
  for (index piece = 0; piece < pieces; ++piece) {
    index p = positions * piece / pieces, end = positions * (piece + 1) / pieces;
    // Column b meets the image somewhere in the tile if  first + (end-1)*stride + b*spread >= 0  and
    // first + p*stride + b*spread < extent.
    index reach = t.first + (end - 1) * t.stride, room = t.extent - t.first - p * t.stride;
    index col_begin = reach >= 0 ? 0 : (-reach + t.spread - 1) / t.spread;
    index col_end = room <= 0 ? 0 : (room + t.spread - 1) / t.spread;
    if (col_begin > t.cols) col_begin = t.cols;
    if (col_end > t.cols) col_end = t.cols;
    conv_tile_of<C, MOST, N, HALF>(end - p, x + p * ldx, ldx, t, col_begin, col_end, depth, w, bias, y + p * ldy, ldy,
                                   m);
  }
}

// Calls f(number of whole vectors, whether a half follows, wanted lanes of the last one) for `columns` outputs.
template <class C, int N = BLOCK_VECTORS, class F>
INLINE void with_outputs(index columns, F f) {
  index rest = columns - (N - 1) * L<C>;
  if (rest > 0) {
    if constexpr (HALVES) {
      if (rest <= L<C> / 2) return f(number<N - 1>(), number<1>(), rest);
    }
    return f(number<N>(), number<0>(), rest);
  }
  if constexpr (N > 1) with_outputs<C, N - 1>(columns, f);
}

template <class C>
void conv_tiles(const C* x, index ldx, const Taps& t, index depth, const C* w, const C* bias, C* y, index ldy,
                index positions, index columns) {
  with_outputs<C>(columns, [&](auto whole, auto half, index m) {
    conv_positions<C, decltype(whole)::value, decltype(half)::value == 1>(x, ldx, t, depth, w, bias, y, ldy, positions,
                                                                          m);
  });
}

// ------------------------------------------------------------------------------------------- gradient of the kernel

template <class C, int P, int N, bool HALF, bool PART>
void kernel_tile(const C* x, index ldx, index x_row, const C* g, index ldg, index g_row, index rows, index positions,
                 C* acc, index ldacc, index m) {
  using Out = Outputs<C, N, HALF>;
  Out total[P];
  UNROLL for (int p = 0; p < P; ++p) { read(total[p], acc + p * ldacc); }
  for (index r = 0; r < rows; ++r) {
    const C* xt = x + r * x_row;
    const C* gt = g + r * g_row;
    for (index i = 0; i < positions; ++i) {
      Out gv;
      if constexpr (PART)
        read_part(gv, gt, m);
      else
        read(gv, gt);
      UNROLL for (int p = 0; p < P; ++p) { add_product(total[p], xt[p], gv); }
      xt += ldx;
      gt += ldg;
    }
  }
  UNROLL for (int p = 0; p < P; ++p) { write(acc + p * ldacc, total[p]); }
}

template <class C, int P, int N, bool HALF, bool PART>
void kernel_tile_of(index count, const C* x, index ldx, index x_row, const C* g, index ldg, index g_row, index rows,
                    index positions, C* acc, index ldacc, index m) {
  if (count == P) return kernel_tile<C, P, N, HALF, PART>(x, ldx, x_row, g, ldg, g_row, rows, positions, acc, ldacc, m);
  if constexpr (P > 1)
    kernel_tile_of<C, P - 1, N, HALF, PART>(count, x, ldx, x_row, g, ldg, g_row, rows, positions, acc, ldacc, m);
}

template <class C>
void kernel_tiles(const C* x, index ldx, index x_row, const C* g, index ldg, index g_row, index rows, index positions,
                  C* acc, index ldacc, index depth, index columns) {
  with_outputs<C>(columns, [&](auto whole, auto half, index m) {
    constexpr int N = decltype(whole)::value;
    constexpr bool HALF = decltype(half)::value == 1;
    constexpr int MOST = MOST_ROWS<N + HALF>;
    index pieces = (depth + MOST - 1) / MOST;
    for (index piece = 0; piece < pieces; ++piece) {
      index k = depth * piece / pieces, count = depth * (piece + 1) / pieces - k;
      if (m == (HALF ? L<C> / 2 : L<C>))
        kernel_tile_of<C, MOST, N, HALF, false>(count, x + k, ldx, x_row, g, ldg, g_row, rows, positions,
                                                acc + k * ldacc, ldacc, m);
      else
        kernel_tile_of<C, MOST, N, HALF, true>(count, x + k, ldx, x_row, g, ldg, g_row, rows, positions,
                                               acc + k * ldacc, ldacc, m);
    }
  });
}

template <class C>
constexpr Tiles<C> all_tiles() {
  return {conv_tiles<C>, kernel_tiles<C>, BLOCK_VECTORS * L<C>, HALVES ? L<C> / 2 : L<C>};
}

extern const Tiles<float> float_tiles = all_tiles<float>();
extern const Tiles<double> double_tiles = all_tiles<double>();
