// Convolutions with register tiles over channels_last maps: the merged kernel of a ray, straight into the rows of that
// ray, without a library's blocked copies of input and output.
//
// The forward pass and the gradient of the input are one algorithm, `Sweep`: outputs on a grid, each the sum over a grid
// of taps of a pixel times a matrix. With stride s the gradient falls apart into s*s such sweeps, one for every remainder
// of the position. Where taps reach over the border, a band of rows is copied with its padding first: it stays in cache.
#include "tiled.h"

#include <numeric>

#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include "tiles.h"

namespace palora {
namespace {

constexpr int64_t BAND_BYTES = 128 << 10;  // what a band of rows may take of a core's second-level cache

// One axis of a sweep: output j, at pixel out_first + j*out_step of the result, reads the input pixels
// first + j*stride + a*spread for every tap a.
struct Axis {
  int64_t count, first, stride, taps, spread, extent, out_first, out_step, out_extent;

  int64_t last() const { return first + (count - 1) * stride + (taps - 1) * spread; }
  bool inside() const { return first >= 0 && last() < extent; }
};

struct Sweep {
  Axis h, w;
  int64_t images, groups, depth, outputs;  // depth and outputs of one group

  int64_t pixel() const { return groups * depth; }
  int64_t out_pixel() const { return groups * outputs; }
  int64_t span() const { return w.last() - w.first + 1; }  // pixels of an input row that are read
};

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Where the panel of `column` begins in a packed kernel of `taps` matrices (depth, outputs), and how long all are.
struct Panels {
  int64_t taps, depth, outputs, block, grain;

  int64_t begin(int64_t column) const { return taps * depth * column; }
  int64_t width(int64_t column) const { return round_up(std::min(block, outputs - column), grain); }
  int64_t size() const { return taps * depth * round_up(outputs, grain); }
};

// at(tap, k, o) in the order that Tiles::conv reads: panels of outputs; in them taps, depth, outputs.
template <class C, class F>
void pack(const Panels& z, C* out, F at) {
  int64_t pieces = (z.outputs + z.block - 1) / z.block * z.taps;
  over_slots(slots_for(pieces, 8 * z.size()), pieces, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      int64_t column = piece / z.taps * z.block, tap = piece % z.taps;
      int64_t count = std::min(z.block, z.outputs - column), width = z.width(column);
      C* matrix = out + z.begin(column) + tap * z.depth * width;
      for (int64_t k = 0; k < z.depth; ++k, matrix += width) {
        for (int64_t o = 0; o < count; ++o) matrix[o] = at(tap, k, column + o);
        std::fill(matrix + count, matrix + width, C(0));
      }
    }
  });
}

// Rows [row, row + rows) of an image with `pixels` pixels from column w.first on, zeros outside. Rows outside are left
// alone: no tap reads them.
template <class C>
void copy_band(const Sweep& z, const C* image, int64_t row, int64_t rows, C* out) {
  int64_t span = z.span(), pixel = z.pixel();
  int64_t left = std::clamp<int64_t>(-z.w.first, 0, span);
  int64_t right = std::clamp<int64_t>(z.w.extent - z.w.first, left, span);
  for (int64_t r = 0; r < rows; ++r, out += span * pixel) {
    if (row + r < 0 || row + r >= z.h.extent) continue;
    const C* in = image + ((row + r) * z.w.extent + z.w.first) * pixel;
    std::fill(out, out + left * pixel, C(0));
    std::copy(in + left * pixel, in + right * pixel, out + left * pixel);
    std::fill(out + right * pixel, out + span * pixel, C(0));
  }
}

int64_t band_rows(const Sweep& z, int64_t item) {
  int64_t rows = BAND_BYTES / std::max<int64_t>(1, z.span() * z.pixel() * item) - (z.h.taps - 1) * z.h.spread;
  int64_t fitting = std::clamp<int64_t>(rows / z.h.stride, 1, z.h.count);
  int64_t bands = (z.h.count + fitting - 1) / fitting;
  while (z.images * bands < 2 * at::get_num_threads() && bands < z.h.count) bands *= 2;
  return (z.h.count + bands - 1) / bands;
}

template <class C>
void run(const Sweep& z, const C* in, const C* packed, const C* bias, C* out) {
  if (z.h.count <= 0 || z.w.count <= 0) return;
  const Tiles<C>& kernel = tiles<C>();
  Panels panels{z.h.taps * z.w.taps, z.depth, z.outputs, kernel.block, kernel.grain};
  bool copy = !z.h.inside() || !z.w.inside();
  int64_t rows = band_rows(z, sizeof(C)), bands = (z.h.count + rows - 1) / rows, count = z.images * bands;
  int64_t pitch = (copy ? z.span() : z.w.extent) * z.pixel();
  Taps taps{z.h.taps, z.w.taps, z.h.spread * pitch, z.w.spread * z.pixel(), 0, z.h.taps,
            z.w.first, z.w.stride, z.w.spread, z.w.extent};
  // The pixels under neighbouring taps are neighbours: with few channels, one long run instead of short ones.
  bool run_on = z.groups == 1 && z.w.spread == 1 && z.depth < 32 && z.w.taps > 0;
  int64_t depth = run_on ? z.depth * z.w.taps : z.depth;
  if (run_on) taps.cols = 1, taps.first = 0, taps.extent = int64_t(1) << 40;  // no tap to skip
  int64_t work = z.images * z.h.count * z.w.count * panels.taps * z.depth * z.outputs * z.groups;
  over_slots(slots_for(count, work), count, [&](int64_t, int64_t begin, int64_t end) {
    int64_t rows_in = (rows - 1) * z.h.stride + (z.h.taps - 1) * z.h.spread + 1;
    std::vector<C> band(copy ? rows_in * pitch : 0);
    for (int64_t task = begin; task < end; ++task) {
      int64_t image = task / bands, j0 = task % bands * rows, j1 = std::min(z.h.count, j0 + rows);
      const C* source = in + image * z.h.extent * z.w.extent * z.pixel();
      int64_t top = z.h.first + j0 * z.h.stride;  // the image row that band row 0 holds
      if (copy)
        copy_band(z, source, top, (j1 - j0 - 1) * z.h.stride + (z.h.taps - 1) * z.h.spread + 1, band.data());
      const C* base = copy ? band.data() : source + (top * z.w.extent + z.w.first) * z.pixel();
      Taps row_taps = taps;
      for (int64_t g = 0; g < z.groups; ++g)
        for (int64_t column = 0; column < z.outputs; column += panels.block)
          for (int64_t j = j0; j < j1; ++j) {
            int64_t first = z.h.first + j * z.h.stride;  // the image row of tap row 0
            row_taps.row_begin = first >= 0 ? 0 : std::min(z.h.taps, (-first + z.h.spread - 1) / z.h.spread);
            row_taps.row_end = std::clamp<int64_t>((z.h.extent - first + z.h.spread - 1) / z.h.spread, 0, z.h.taps);
            int64_t channel = g * z.outputs + column;
            C* y = out + ((image * z.h.out_extent + z.h.out_first + j * z.h.out_step) * z.w.out_extent +
                          z.w.out_first) * z.out_pixel() + channel;
            kernel.conv(base + (j - j0) * z.h.stride * pitch + g * z.depth, z.w.stride * z.pixel(), row_taps, depth,
                        packed + g * panels.size() + panels.begin(column), bias == nullptr ? nullptr : bias + channel,
                        y, z.w.out_step * z.out_pixel(), z.w.count, std::min(panels.block, z.outputs - column));
          }
    }
  });
}

struct Geometry {
  int64_t n, C, H, W, O, c, kh, kw, Ho, Wo, groups, o;  // c, o: channels of one group
  int64_t stride[2], padding[2], dilation[2];
};

bool is_channels_last(const Tensor& t) {  // strides of axes of size 1 are free
  int64_t expected = 1;
  for (int axis : {1, 3, 2, 0}) {
    if (t.size(axis) != 1 && t.stride(axis) != expected) return false;
    expected *= t.size(axis);
  }
  return true;
}

Geometry geometry_of(const char* name, const Tensor& x, const Tensor& kernel, const Tensor& y, at::IntArrayRef stride,
                     at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  TORCH_CHECK(x.dim() == 4 && kernel.dim() == 4 && y.dim() == 4, name, ": `x`, `kernel` and the result should have 4 axes.");
  Geometry z;
  z.n = x.size(0), z.C = x.size(1), z.H = x.size(2), z.W = x.size(3), z.groups = groups;
  z.O = kernel.size(0), z.c = kernel.size(1), z.kh = kernel.size(2), z.kw = kernel.size(3), z.o = z.O / groups;
  z.Ho = y.size(2), z.Wo = y.size(3);
  for (int i = 0; i < 2; ++i) {
    z.stride[i] = stride[i], z.padding[i] = padding[i], z.dilation[i] = dilation[i];
    int64_t reach = x.size(2 + i) + 2 * padding[i] - dilation[i] * (kernel.size(2 + i) - 1) - 1;
    TORCH_CHECK(reach >= 0 && y.size(2 + i) == reach / stride[i] + 1, name, ": the maps should have ",
                reach / stride[i] + 1, " positions on axis ", 2 + i, ". Found ", y.size(2 + i), ".");
  }
  TORCH_CHECK(z.C == z.c * groups && z.O == z.o * groups && y.size(0) == z.n && y.size(1) == z.O, name,
              ": shapes do not fit. Found ", x.sizes(), ", ", kernel.sizes(), ", ", y.sizes(), ", groups ", groups, ".");
  for (const Tensor& t : {x, kernel, y})
    TORCH_CHECK(is_channels_last(t) && t.scalar_type() == x.scalar_type(), name,
                ": tensors should be channels_last and of one dtype.");
  return z;
}

Sweep forward_sweep(const Geometry& z) {
  auto axis = [&](int i, int64_t taps, int64_t in, int64_t out) {
    return Axis{out, -z.padding[i], z.stride[i], taps, z.dilation[i], in, 0, 1, out};
  };
  return {axis(0, z.kh, z.H, z.Ho), axis(1, z.kw, z.W, z.Wo), z.n, z.groups, z.c, z.o};
}

// The pixels of the input at remainder `phase` of (pixel + padding) mod stride, as outputs of a sweep over the gradient.
// Tap a of the sweep is tap first_tap - a*tap_step of the kernel: backwards, so that pixels ascend.
struct Phase {
  Axis axis;
  int64_t last_tap, tap_step;
};

Phase phase_of(const Geometry& z, int i, int64_t phase, int64_t taps, int64_t in, int64_t out) {
  int64_t s = z.stride[i], d = z.dilation[i];
  int64_t step = s / std::gcd(s, d), first = -1, count = 0;
  for (int64_t k = 0; k < taps; ++k)
    if ((k * d) % s == phase) {
      if (first < 0) first = k;
      ++count;
    }
  int64_t pixel = ((phase - z.padding[i]) % s + s) % s;  // the first one of this phase
  int64_t outputs = pixel < in ? (in - pixel + s - 1) / s : 0;
  int64_t last = count == 0 ? 0 : first + (count - 1) * step;
  int64_t reach = (last * d - phase) / s;  // pixel j meets gradient row  origin + j - reach + a*spread
  int64_t origin = (pixel + z.padding[i] - phase) / s;
  return {{outputs, origin - reach, 1, count, step * d / s, out, pixel, s, in}, last, step};
}

template <class C>
void input_gradient(const Geometry& z, const C* grad, const C* kernel, C* dx) {
  const Tiles<C>& table = tiles<C>();
  std::vector<C> packed;
  for (int64_t ph = 0; ph < z.stride[0]; ++ph)
    for (int64_t pw = 0; pw < z.stride[1]; ++pw) {
      Phase h = phase_of(z, 0, ph, z.kh, z.H, z.Ho), w = phase_of(z, 1, pw, z.kw, z.W, z.Wo);
      if (h.axis.taps == 0 || w.axis.taps == 0) {  // pixels that no output sees
        h.axis.taps = w.axis.taps = 0;
        h.axis.first = w.axis.first = 0, h.axis.spread = w.axis.spread = 1;
      }
      Sweep sweep{h.axis, w.axis, z.n, z.groups, z.o, z.c};
      Panels panels{h.axis.taps * w.axis.taps, z.o, z.c, table.block, table.grain};
      packed.resize(z.groups * panels.size());
      for (int64_t g = 0; g < z.groups; ++g)
        pack(panels, packed.data() + g * panels.size(), [&](int64_t tap, int64_t k, int64_t c) {
          int64_t a = h.last_tap - tap / w.axis.taps * h.tap_step, b = w.last_tap - tap % w.axis.taps * w.tap_step;
          return kernel[(((g * z.o + k) * z.kh + a) * z.kw + b) * z.c + c];
        });
      run<C>(sweep, grad, packed.data(), nullptr, dx);
    }
}

// Positions [begin, end) of an output axis whose pixel under tap a lies on the image.
std::pair<int64_t, int64_t> seen(const Geometry& z, int i, int64_t a, int64_t in, int64_t out) {
  int64_t offset = a * z.dilation[i] - z.padding[i], s = z.stride[i];
  int64_t begin = offset >= 0 ? 0 : (-offset + s - 1) / s, end = in > offset ? (in - offset + s - 1) / s : 0;
  return {std::min(begin, out), std::clamp(end, std::min(begin, out), out)};
}

template <class C>
void kernel_gradient(const Geometry& z, const C* grad, const C* x, C* sums, C* bias_sums, int64_t slots) {
  const Tiles<C>& table = tiles<C>();
  int64_t width = round_up(z.o, table.grain);
  constexpr int64_t positions = 256;  // enough to keep the sums in registers, few enough to stay in cache
  int64_t rows = std::clamp<int64_t>(positions / z.Wo, 1, z.Ho), bands = (z.Ho + rows - 1) / rows, count = z.n * bands;
  over_slots(slots, count, [&](int64_t slot, int64_t begin, int64_t end) {
    C* mine = sums + slot * z.kh * z.kw * z.C * width;  // (groups, kh, kw, c, width)
    for (int64_t task = begin; task < end; ++task) {
      int64_t image = task / bands, first = task % bands * rows, last = std::min(z.Ho, first + rows);
      const C* g = grad + image * z.Ho * z.Wo * z.O;
      const C* pixels = x + image * z.H * z.W * z.C;
      if (bias_sums != nullptr)
        palora::table<C>().add_rows(g + first * z.Wo * z.O, z.O, bias_sums + slot * z.O, (last - first) * z.Wo, z.O);
      if (sums == nullptr) continue;
      for (int64_t tap = 0; tap < z.kh * z.kw; ++tap) {
        auto [h0, h1] = seen(z, 0, tap / z.kw, z.H, z.Ho);
        auto [w0, w1] = seen(z, 1, tap % z.kw, z.W, z.Wo);
        h0 = std::max(h0, first), h1 = std::min(h1, last);
        if (h0 >= h1 || w0 >= w1) continue;
        int64_t row = h0 * z.stride[0] - z.padding[0] + tap / z.kw * z.dilation[0];
        int64_t column = w0 * z.stride[1] - z.padding[1] + tap % z.kw * z.dilation[1];
        for (int64_t group = 0; group < z.groups; ++group)
          for (int64_t o = 0; o < z.o; o += table.block)
            table.kernel(pixels + (row * z.W + column) * z.C + group * z.c, z.stride[1] * z.C,
                         z.stride[0] * z.W * z.C, g + (h0 * z.Wo + w0) * z.O + group * z.o + o, z.O, z.Wo * z.O,
                         h1 - h0, w1 - w0, mine + ((group * z.kh * z.kw + tap) * z.c) * width + o, width, z.c,
                         std::min(table.block, z.o - o));
      }
    }
  });
}

template <class F>
void with_tiles(const char* name, at::ScalarType type, F f) {
  if (type == at::kFloat) return f(float());
  if (type == at::kDouble) return f(double());
  TORCH_CHECK_TYPE(false, name, " computes in float32 and float64. Found ", type, ".");
}

}  // namespace

void tiled_conv(const Tensor& x, const Tensor& kernel, const OptionalTensor& bias, at::IntArrayRef stride,
                at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, Tensor y) {
  constexpr const char* name = "palora_native::tiled_conv";
  Geometry z = geometry_of(name, x, kernel, y, stride, padding, dilation, groups);
  TORCH_CHECK(!bias.has_value() || (bias->numel() == z.O && bias->is_contiguous() && bias->scalar_type() == x.scalar_type()),
              name, ": `bias` should be contiguous with ", z.O, " elements of the dtype of `x`.");
  with_tiles(name, x.scalar_type(), [&](auto c) {
    using C = decltype(c);
    const Tiles<C>& table = tiles<C>();
    Sweep sweep = forward_sweep(z);
    Panels panels{z.kh * z.kw, z.c, z.o, table.block, table.grain};
    std::vector<C> packed(groups * panels.size());
    const C* from = data<C>(kernel);
    for (int64_t g = 0; g < groups; ++g)
      pack(panels, packed.data() + g * panels.size(), [&](int64_t tap, int64_t k, int64_t o) {
        return from[((g * z.o + o) * panels.taps + tap) * z.c + k];
      });
    run<C>(sweep, data<C>(x), packed.data(), bias.has_value() ? data<C>(*bias) : nullptr, data<C>(y));
  });
}

std::tuple<Tensor, Tensor> tiled_conv_backward(const Tensor& grad, const Tensor& x, const Tensor& kernel,
                                               at::IntArrayRef stride, at::IntArrayRef padding,
                                               at::IntArrayRef dilation, int64_t groups, bool needs_kernel,
                                               bool needs_bias, const OptionalTensor& dx) {
  constexpr const char* name = "palora_native::tiled_conv_backward";
  Geometry z = geometry_of(name, x, kernel, grad, stride, padding, dilation, groups);
  TORCH_CHECK(!dx.has_value() || (dx->sizes() == x.sizes() && is_channels_last(*dx) && dx->scalar_type() == x.scalar_type()),
              name, ": `dx` should be channels_last, in the shape and dtype of `x`.");
  Tensor dkernel = at::empty({0}, x.options()), dbias = at::empty({0}, x.options());
  with_tiles(name, x.scalar_type(), [&](auto c) {
    using C = decltype(c);
    if (dx.has_value()) input_gradient<C>(z, data<C>(grad), data<C>(kernel), data<C>(*dx));
    if (!needs_kernel && !needs_bias) return;
    int64_t taps = z.kh * z.kw, width = round_up(z.o, tiles<C>().grain);
    int64_t slots = slots_for(std::max<int64_t>(z.n * z.Ho, 1), z.n * z.Ho * z.Wo * z.O * (1 + taps * z.c));
    Tensor sums = needs_kernel ? at::zeros({slots, groups, taps, z.c, width}, x.options()) : dkernel;
    Tensor bias_sums = needs_bias ? at::zeros({slots, z.O}, x.options()) : dbias;
    kernel_gradient<C>(z, data<C>(grad), data<C>(x), needs_kernel ? data<C>(sums) : nullptr,
                       needs_bias ? data<C>(bias_sums) : nullptr, slots);
    if (needs_kernel) {
      Tensor total = (slots == 1 ? sums[0] : sums.sum(0)).slice(3, 0, z.o);  // (groups, taps, c, o)
      dkernel = total.permute({0, 3, 1, 2}).contiguous().view({z.O, z.kh, z.kw, z.c}).permute({0, 3, 1, 2});
    }
    if (needs_bias) dbias = bias_sums.sum(0);
  });
  return {dkernel, dbias};
}

}  // namespace palora
