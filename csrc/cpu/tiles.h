// The inner loops of convolutions with many channels, on raw pointers, in channels_last; see kernels.h for the rules.
#pragma once

#include "kernels.h"

namespace palora {

// The grid of taps behind one output row. Position p under tap (a, b) reads the pixel at
// x + p*ldx + a*row_step + b*col_step, which lies in image column  first + p*stride + b*spread.
struct Taps {
  index rows, cols;          // the grid, as it is packed
  index row_step, col_step;  // in elements
  index row_begin, row_end;  // rows of the grid that meet the image; the others are padding and never read
  index first, stride, spread, extent;  // columns: tiles skip taps that only meet padding
};

template <class C>
struct Tiles {
  // y (positions, N) = bias + sum over taps and channels, for N <= block outputs.
  //   w: (taps, depth, N rounded up to a multiple of grain), zero-padded; bias (N) or null.
  void (*conv)(const C* x, index ldx, const Taps& taps, index depth, const C* w, const C* bias, C* y, index ldy,
               index positions, index N);

  // acc (depth, N rounded up as in w) += sum over rows and positions of x (depth) g (N)^T: one tap of a kernel's gradient.
  void (*kernel)(const C* x, index ldx, index x_row, const C* g, index ldg, index g_row, index rows, index positions,
                 C* acc, index ldacc, index depth, index N);

  index block;  // outputs that one call takes at most: a multiple of grain
  index grain;  // outputs are packed in multiples of it
};

// The table of the best instruction set of this processor, for float and double.
template <class C>
const Tiles<C>& tiles();

}  // namespace palora
