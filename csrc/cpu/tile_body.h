// The loops behind tiles.h. Included by body.h, inside PALORA_ISA: P positions (or channels) times N vectors of outputs
// stay in registers while everything that adds to them streams past.

constexpr int BLOCK_VECTORS = WIDE ? 4 : 2;

// As many rows of N vectors as the registers hold beside N operands and a broadcast.
template <int N>
constexpr int MOST_ROWS = WIDE ? (N == 4 ? 6 : N == 3 ? 8 : 12) : (N == 2 ? 6 : 12);

template <class C, int P, int N>
void conv_tile(const C* x, index ldx, const Taps& t, index col_begin, index col_end, index depth, const C* w,
               const C* bias, C* y, index ldy, index m) {
  V<C> total[P][N];
  UNROLL for (int n = 0; n < N; ++n) {
    V<C> start = zero<C>();
    if (bias != nullptr) start = n + 1 < N || m == L<C> ? load(bias + n * L<C>) : load_part(bias + n * L<C>, m);
    UNROLL for (int p = 0; p < P; ++p) { total[p][n] = start; }
  }
  for (index a = t.row_begin; a < t.row_end; ++a) {
    for (index b = col_begin; b < col_end; ++b) {
      const C* wt = w + (a * t.cols + b) * depth * N * L<C>;
      // One pointer for three positions: the others are reached as pointer + ldx and pointer + 2 ldx.
      const C* xt[(P + 2) / 3];
      UNROLL for (int q = 0; q < (P + 2) / 3; ++q) { xt[q] = x + a * t.row_step + b * t.col_step + 3 * q * ldx; }
      for (index k = 0; k < depth; ++k) {
        V<C> wv[N];
        UNROLL for (int n = 0; n < N; ++n) { wv[n] = load(wt + n * L<C>); }
        UNROLL for (int p = 0; p < P; ++p) { V<C> xv = splat<C>(xt[p / 3][(p % 3) * ldx]);
          UNROLL for (int n = 0; n < N; ++n) { total[p][n] += xv * wv[n]; } }
        wt += N * L<C>;
        UNROLL for (int q = 0; q < (P + 2) / 3; ++q) { ++xt[q]; }
      }
    }
  }
  UNROLL for (int p = 0; p < P; ++p) { UNROLL for (int n = 0; n < N; ++n) {
      C* out = y + p * ldy + n * L<C>;
      if (n + 1 < N || m == L<C>)
        store(out, total[p][n]);
      else
        store_part(out, total[p][n], m); } }
}

template <class C, int P, int N>
void conv_tile_of(index count, const C* x, index ldx, const Taps& t, index col_begin, index col_end, index depth,
                  const C* w, const C* bias, C* y, index ldy, index m) {
  if (count == P) return conv_tile<C, P, N>(x, ldx, t, col_begin, col_end, depth, w, bias, y, ldy, m);
  if constexpr (P > 1)
    conv_tile_of<C, P - 1, N>(count, x, ldx, t, col_begin, col_end, depth, w, bias, y, ldy, m);
}

template <class C, int N>
void conv_positions(const C* x, index ldx, const Taps& t, index depth, const C* w, const C* bias, C* y, index ldy,
                    index positions, index m) {
  constexpr int MOST = MOST_ROWS<N>;
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
    conv_tile_of<C, MOST, N>(end - p, x + p * ldx, ldx, t, col_begin, col_end, depth, w, bias, y + p * ldy, ldy, m);
  }
}

template <class C, int N>
void conv_block(const C* x, index ldx, const Taps& t, index depth, const C* w, const C* bias, C* y, index ldy,
                index positions, index columns) {
  if ((columns + L<C> - 1) / L<C> == N)
    return conv_positions<C, N>(x, ldx, t, depth, w, bias, y, ldy, positions, columns - (N - 1) * L<C>);
  if constexpr (N > 1) conv_block<C, N - 1>(x, ldx, t, depth, w, bias, y, ldy, positions, columns);
}

template <class C>
void conv_tiles(const C* x, index ldx, const Taps& t, index depth, const C* w, const C* bias, C* y, index ldy,
                index positions, index columns) {
  conv_block<C, BLOCK_VECTORS>(x, ldx, t, depth, w, bias, y, ldy, positions, columns);
}

// ------------------------------------------------------------------------------------------- gradient of the kernel

template <class C, int P, int N, bool PART>
void kernel_tile(const C* x, index ldx, index x_row, const C* g, index ldg, index g_row, index rows, index positions,
                 C* acc, index ldacc, index m) {
  V<C> total[P][N];
  UNROLL for (int p = 0; p < P; ++p) { UNROLL for (int n = 0; n < N; ++n) { total[p][n] = load(acc + p * ldacc + n * L<C>); } }
  for (index r = 0; r < rows; ++r) {
    const C* xt = x + r * x_row;
    const C* gt = g + r * g_row;
    for (index i = 0; i < positions; ++i) {
      V<C> gv[N];
      UNROLL for (int n = 0; n < N; ++n) {
        if (PART && n + 1 == N)
          gv[n] = load_part(gt + n * L<C>, m);
        else
          gv[n] = load(gt + n * L<C>);
      }
      UNROLL for (int p = 0; p < P; ++p) { V<C> xv = splat<C>(xt[p]);
        UNROLL for (int n = 0; n < N; ++n) { total[p][n] += xv * gv[n]; } }
      xt += ldx;
      gt += ldg;
    }
  }
  UNROLL for (int p = 0; p < P; ++p) { UNROLL for (int n = 0; n < N; ++n) { store(acc + p * ldacc + n * L<C>, total[p][n]); } }
}

template <class C, int P, int N, bool PART>
void kernel_tile_of(index count, const C* x, index ldx, index x_row, const C* g, index ldg, index g_row, index rows,
                    index positions, C* acc, index ldacc, index m) {
  if (count == P) return kernel_tile<C, P, N, PART>(x, ldx, x_row, g, ldg, g_row, rows, positions, acc, ldacc, m);
  if constexpr (P > 1)
    kernel_tile_of<C, P - 1, N, PART>(count, x, ldx, x_row, g, ldg, g_row, rows, positions, acc, ldacc, m);
}

template <class C, int N>
void kernel_block(const C* x, index ldx, index x_row, const C* g, index ldg, index g_row, index rows, index positions,
                  C* acc, index ldacc, index depth, index columns) {
  if ((columns + L<C> - 1) / L<C> == N) {
    constexpr int MOST = MOST_ROWS<N>;
    index pieces = (depth + MOST - 1) / MOST, m = columns - (N - 1) * L<C>;
    for (index piece = 0; piece < pieces; ++piece) {
      index k = depth * piece / pieces, count = depth * (piece + 1) / pieces - k;
      if (m == L<C>)
        kernel_tile_of<C, MOST, N, false>(count, x + k, ldx, x_row, g, ldg, g_row, rows, positions, acc + k * ldacc, ldacc, m);
      else
        kernel_tile_of<C, MOST, N, true>(count, x + k, ldx, x_row, g, ldg, g_row, rows, positions, acc + k * ldacc, ldacc, m);
    }
    return;
  }
  if constexpr (N > 1)
    kernel_block<C, N - 1>(x, ldx, x_row, g, ldg, g_row, rows, positions, acc, ldacc, depth, columns);
}

template <class C>
void kernel_tiles(const C* x, index ldx, index x_row, const C* g, index ldg, index g_row, index rows, index positions,
                  C* acc, index ldacc, index depth, index columns) {
  kernel_block<C, BLOCK_VECTORS>(x, ldx, x_row, g, ldg, g_row, rows, positions, acc, ldacc, depth, columns);
}

extern const Tiles<float> float_tiles = {conv_tiles<float>, kernel_tiles<float>, BLOCK_VECTORS * L<float>, L<float>};
extern const Tiles<double> double_tiles = {conv_tiles<double>, kernel_tiles<double>, BLOCK_VECTORS * L<double>,
                                           L<double>};
