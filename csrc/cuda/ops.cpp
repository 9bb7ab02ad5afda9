// The operators of the CUDA library, over the LibTorch stable ABI: this file needs torch's headers but no CUDA build of it.
//
// Every operator writes into tensors that its caller made; the plans in palora_kernels/native/cuda/ are the callers. An
// axis of size 1 stands for as many equal entries as needed. Columns (the last axis) are adjacent, other strides are free.
// `stream` is the cudaStream_t to launch on, as an integer: the stable ABI gives streams a native handle from torch 2.13
// only, and Python knows it in every release.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "kernels.h"

#ifndef PALORA_DISPATCH_KEY
#define PALORA_DISPATCH_KEY CUDA
#endif

namespace palora_cuda {
namespace ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

Type type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Type::Float;
    case ScalarType::Double:
      return Type::Double;
    case ScalarType::BFloat16:
      return Type::BFloat16;
    case ScalarType::Half:
      return Type::Half;
    default:
      STD_TORCH_CHECK(false, "the native CUDA kernels compute in float32, float64, bfloat16 and float16.");
  }
}

Type wide_type(const Tensor& t) { return type_of(t) == Type::Double ? Type::Double : Type::Float; }

// Makes a tensor's device the current one, as a launch there needs it.
class Place {
 public:
#ifdef PALORA_HOST_KERNELS
  explicit Place(const Tensor&) {}
#else
  explicit Place(const Tensor& t) : guard_(t.get_device_index()) {}

 private:
  torch::stable::accelerator::DeviceGuard guard_;
#endif
};

Stream native(int64_t stream) { return reinterpret_cast<Stream>(static_cast<intptr_t>(stream)); }

index stride(const Tensor& t, int64_t dim) { return t.size(dim) == 1 ? 0 : t.stride(dim); }

const void* pointer(const OptionalTensor& t) { return t.has_value() ? t->data_ptr() : nullptr; }

// Names an argument that does not fit: sizes[i] < 0 is free, otherwise the axis has that size or 1.
void check(const char* op, const char* name, const Tensor& t, const Tensor& like, Type type,
           std::initializer_list<index> sizes, bool adjacent = true) {
  STD_TORCH_CHECK(t.dim() == static_cast<int64_t>(sizes.size()), "palora_native::", op, ": `", name, "` should have ",
                  sizes.size(), " dimensions. Found ", t.dim(), ".");
  int64_t dim = 0;
  for (index size : sizes) {
    STD_TORCH_CHECK(size < 0 || t.size(dim) == size || t.size(dim) == 1, "palora_native::", op, ": `", name,
                    "` should have size ", size, " or 1 in dimension ", dim, ". Found ", t.size(dim), ".");
    ++dim;
  }
  STD_TORCH_CHECK(!adjacent || t.size(dim - 1) <= 1 || t.stride(dim - 1) == 1, "palora_native::", op, ": `", name,
                  "` should have adjacent elements in its last dimension.");
  STD_TORCH_CHECK(type_of(t) == type, "palora_native::", op, ": `", name, "` has another dtype than it should.");
  STD_TORCH_CHECK(t.device() == like.device(), "palora_native::", op, ": `", name, "` is on another device.");
}

Operand operand(const Tensor& t) { return {t.data_ptr(), stride(t, 0), stride(t, 1), stride(t, 2), stride(t, 3)}; }

// y (b, rows, columns) = base (s, rows, columns) + left (s, T, rows, r) lam (M, T) right (s, T, columns, r)^T
//                        + bias (M, rows, columns);  batch i of y reads source i % s.
void low_rank_update(const OptionalTensor& base, const Tensor& left, const Tensor& right, const OptionalTensor& lam,
                     const OptionalTensor& bias, int64_t batches_per_ray, int64_t rows_per_ray, int64_t stream,
                     const Tensor& y) {
  const char* op = "low_rank_update";
  Type type = type_of(y);
  check(op, "y", y, y, type, {-1, -1, -1});
  if (y.numel() == 0) return;
  Update u{};
  u.y = y.data_ptr();
  u.y_batch = stride(y, 0);
  u.y_row = stride(y, 1);
  u.batches = y.size(0);
  u.rows = y.size(1);
  u.columns = y.size(2);
  check(op, "left", left, y, type, {-1, -1, u.rows, -1}, false);
  index tasks = left.size(1), rank = left.size(3), sources = std::max(left.size(0), right.size(0));
  STD_TORCH_CHECK(left.size(2) == u.rows && right.dim() == 4 && right.size(1) == tasks && right.size(2) == u.columns &&
                      right.size(3) == rank && tasks * rank < (1 << 30),
                  "palora_native::low_rank_update: `left` should be (s, T, rows, r) and `right` (s, T, columns, r).");
  if (base.has_value()) sources = std::max(sources, base->size(0));
  check(op, "left", left, y, type, {sources, -1, -1, -1}, false);
  check(op, "right", right, y, type, {sources, -1, -1, -1}, false);
  index rays = lam.has_value() ? lam->size(0) : bias.has_value() ? bias->size(0) : 1;
  STD_TORCH_CHECK(batches_per_ray > 0 && rows_per_ray > 0 && u.batches % sources == 0,
                  "palora_native::low_rank_update: batches and rows should be spread over sources and rays evenly.");
  if (base.has_value()) {
    check(op, "base", *base, y, type, {sources, u.rows, u.columns});
    STD_TORCH_CHECK(base->size(2) == u.columns, "palora_native::low_rank_update: `base` should have all columns.");
    u.base = {base->data_ptr(), stride(*base, 0), stride(*base, 1)};
  }
  index last_ray = (u.batches - 1) / batches_per_ray + (u.rows - 1) / rows_per_ray;
  if (lam.has_value()) {
    check(op, "lam", *lam, y, wide_type(y), {-1, tasks});
    STD_TORCH_CHECK(lam->is_contiguous() && lam->size(1) == tasks && last_ray < rays,
                    "palora_native::low_rank_update: `lam` should be contiguous, (M, T), with a row for every ray.");
  }
  if (bias.has_value()) {
    check(op, "bias", *bias, y, type, {rays, u.rows, u.columns}, false);
    STD_TORCH_CHECK(bias->size(0) == 1 || last_ray < bias->size(0),
                    "palora_native::low_rank_update: `bias` should have an entry for every ray.");
    u.bias_ray = stride(*bias, 0);
    u.bias_row = stride(*bias, 1);
    u.bias_column = stride(*bias, 2);
  }
  u.left = operand(left);
  u.right = operand(right);
  u.lam = pointer(lam);
  u.bias = pointer(bias);
  u.sources = sources;
  u.batches_per_ray = batches_per_ray;
  u.rows_per_ray = rows_per_ray;
  u.tasks = static_cast<int>(tasks);
  u.rank = static_cast<int>(rank);
  Place place(y);
  launch_update(u, type, native(stream));
}

// out (G, A, rows, columns) = base (G, A, rows, columns) + c (G, A, B) z (G, B, rows, columns) + bias (G, A, p, columns),
// where row i reads row i % p of the bias.
void combine(const OptionalTensor& base, const Tensor& z, const Tensor& c, const OptionalTensor& bias, int64_t stream,
             const Tensor& out) {
  const char* op = "combine";
  Type type = type_of(out);
  check(op, "out", out, out, type, {-1, -1, -1, -1});
  if (out.numel() == 0) return;
  Combine m{};
  m.groups = out.size(0);
  m.A = out.size(1);
  m.rows = out.size(2);
  m.columns = out.size(3);
  check(op, "z", z, out, type, {m.groups, -1, m.rows, m.columns});
  check(op, "c", c, out, wide_type(out), {m.groups, m.A, z.size(1)});
  m.B = z.size(1);
  STD_TORCH_CHECK(z.size(3) == m.columns && c.size(1) == m.A && c.size(2) == m.B,
                  "palora_native::combine: `c` should be (G, A, B) for `z` (G, B, rows, columns).");
  m.out = out.data_ptr();
  m.out_group = stride(out, 0);
  m.out_a = stride(out, 1);
  m.out_row = stride(out, 2);
  m.z = z.data_ptr();
  m.z_group = stride(z, 0);
  m.z_b = stride(z, 1);
  m.z_row = stride(z, 2);
  m.c = c.data_ptr();
  m.c_group = stride(c, 0);
  m.c_a = stride(c, 1);
  if (base.has_value()) {
    check(op, "base", *base, out, type, {m.groups, m.A, m.rows, m.columns});
    STD_TORCH_CHECK(base->size(3) == m.columns, "palora_native::combine: `base` should have all columns.");
    m.base_group = stride(*base, 0);
    m.base_a = stride(*base, 1);
    m.base_row = stride(*base, 2);
  }
  m.bias_period = 1;
  if (bias.has_value()) {
    check(op, "bias", *bias, out, type, {m.groups, m.A, -1, m.columns}, false);
    m.bias_group = stride(*bias, 0);
    m.bias_a = stride(*bias, 1);
    m.bias_row = stride(*bias, 2);
    m.bias_column = stride(*bias, 3);
    m.bias_period = bias->size(2);
  }
  m.base = pointer(base);
  m.bias = pointer(bias);
  Place place(out);
  launch_combine(m, type, native(stream));
}

// out (samples, R, positions) = s (sources, R, positions) o lam (M, T), a ray being M-th part of the samples; with
// `over_rays` the sum over m of s (M*samples, R, positions) o lam[m].
void weigh(const Tensor& s, const Tensor& lam, bool over_rays, int64_t stream, const Tensor& out) {
  const char* op = "weigh";
  Type type = type_of(out);
  check(op, "out", out, out, type, {-1, -1, -1});
  if (out.numel() == 0) return;
  check(op, "lam", lam, out, wide_type(out), {-1, -1});
  check(op, "s", s, out, type, {-1, out.size(1), out.size(2)});
  index rays = lam.size(0), samples = out.size(0);
  STD_TORCH_CHECK(out.is_contiguous() && lam.is_contiguous() && rays > 0 && lam.size(1) > 0 &&
                      s.size(1) == out.size(1) && s.size(2) == out.size(2) && out.size(1) % lam.size(1) == 0,
                  "palora_native::weigh: `out` should be (samples, T*r, positions) like `s`, and `lam` (M, T).");
  STD_TORCH_CHECK(over_rays ? s.size(0) == rays * samples
                            : s.size(0) > 0 && samples % rays == 0 && samples % s.size(0) == 0,
                  "palora_native::weigh: samples should be spread over ", rays, " rays evenly.");
  Weigh w{};
  w.out = out.data_ptr();
  w.s = s.data_ptr();
  w.lam = lam.data_ptr();
  w.s_sample = stride(s, 0);
  w.s_channel = stride(s, 1);
  w.samples = samples;
  w.channels = out.size(1);
  w.positions = out.size(2);
  w.sources = s.size(0);
  w.samples_per_ray = over_rays ? samples : samples / rays;
  w.rays = over_rays ? rays : 0;
  w.tasks = static_cast<int>(lam.size(1));
  w.rank = static_cast<int>(w.channels / w.tasks);
  Place place(out);
  launch_weigh(w, type, native(stream));
}

// A workspace like `out`, whose elements are of the arithmetic type, or `out` itself where one part is enough.
Tensor parts_like(const Tensor& out, index parts) {
  return parts == 1 ? out : torch::stable::new_empty(out, {parts * out.numel()});
}

void add_parts(const void* parts, const Tensor& out, index groups, index count, index columns, Stream stream) {
  ColumnSums s{};
  s.out = out.data_ptr();
  s.x = parts;
  s.x_group = count * columns;
  s.x_row = columns;
  s.groups = groups;
  s.rows = count;
  s.columns = columns;
  s.chunks = 1;
  launch_column_sums(s, type_of(out), stream);
}

// out (G, columns) = sum over the rows of x (G, rows, columns), times y (G, rows, columns) if given.
void column_sums(const Tensor& x, const OptionalTensor& y, int64_t stream, const Tensor& out) {
  const char* op = "column_sums";
  if (out.numel() == 0) return;
  check(op, "x", x, x, type_of(x), {-1, -1, -1});
  check(op, "out", out, x, wide_type(x), {x.size(0), x.size(2)});
  STD_TORCH_CHECK(out.is_contiguous() && out.size(0) == x.size(0) && out.size(1) == x.size(2),
                  "palora_native::column_sums: `out` should be contiguous, (G, columns).");
  ColumnSums s{};
  s.x = x.data_ptr();
  s.x_group = stride(x, 0);
  s.x_row = stride(x, 1);
  s.groups = x.size(0);
  s.rows = x.size(1);
  s.columns = x.size(2);
  if (y.has_value()) {
    check(op, "y", *y, x, type_of(x), {s.groups, s.rows, s.columns});
    STD_TORCH_CHECK(y->size(2) == s.columns, "palora_native::column_sums: `y` should have all columns.");
    s.y = y->data_ptr();
    s.y_group = stride(*y, 0);
    s.y_row = stride(*y, 1);
  }
  s.chunks = column_sum_chunks(s.rows);
  Tensor parts = parts_like(out, s.chunks);
  s.out = parts.data_ptr();
  Place place(x);
  launch_column_sums(s, type_of(x), native(stream));
  if (s.chunks > 1) add_parts(s.out, out, s.groups, s.chunks, s.columns, native(stream));
}

// out (samples, channels) = sum over the positions of x (samples, channels, positions), times y (sources, channels,
// positions) if given: sample i reads source i % sources.
void plane_sums(const Tensor& x, const OptionalTensor& y, int64_t stream, const Tensor& out) {
  const char* op = "plane_sums";
  if (out.numel() == 0) return;
  check(op, "x", x, x, type_of(x), {-1, -1, -1});
  check(op, "out", out, x, wide_type(x), {x.size(0), x.size(1)});
  STD_TORCH_CHECK(out.is_contiguous() && out.size(0) == x.size(0) && out.size(1) == x.size(1),
                  "palora_native::plane_sums: `out` should be contiguous, (samples, channels).");
  PlaneSums s{};
  s.out = out.data_ptr();
  s.x = x.data_ptr();
  s.x_sample = stride(x, 0);
  s.x_channel = stride(x, 1);
  s.channels = x.size(1);
  s.positions = x.size(2);
  s.planes = x.size(0) * s.channels;
  s.sources = 1;
  if (y.has_value()) {
    check(op, "y", *y, x, type_of(x), {-1, s.channels, s.positions});
    s.sources = y->size(0);
    STD_TORCH_CHECK(y->size(2) == s.positions && s.sources > 0 && x.size(0) % s.sources == 0,
                    "palora_native::plane_sums: `y` should be (sources, channels, positions).");
    s.y = y->data_ptr();
    s.y_sample = stride(*y, 0);
    s.y_channel = stride(*y, 1);
  }
  Place place(x);
  launch_plane_sums(s, type_of(x), native(stream));
}

// out (G, T) = sum over rows and columns of x (G, rows, columns) y (G, T, rows, columns).
void dots(const Tensor& x, const Tensor& y, int64_t stream, const Tensor& out) {
  const char* op = "dots";
  if (out.numel() == 0) return;
  check(op, "x", x, x, type_of(x), {-1, -1, -1});
  check(op, "y", y, x, type_of(x), {x.size(0), -1, x.size(1), x.size(2)});
  check(op, "out", out, x, wide_type(x), {x.size(0), y.size(1)});
  STD_TORCH_CHECK(out.is_contiguous() && out.size(0) == x.size(0) && out.size(1) == y.size(1) &&
                      y.size(2) == x.size(1) && y.size(3) == x.size(2),
                  "palora_native::dots: for `x` (G, rows, columns) and `y` (G, T, rows, columns), `out` is (G, T).");
  Dots d{};
  d.x = x.data_ptr();
  d.y = y.data_ptr();
  d.x_group = stride(x, 0);
  d.x_row = stride(x, 1);
  d.y_group = stride(y, 0);
  d.y_task = stride(y, 1);
  d.y_row = stride(y, 2);
  d.groups = x.size(0);
  d.tasks = y.size(1);
  d.rows = x.size(1);
  d.columns = x.size(2);
  d.chunks = dots_chunks(d.rows * d.columns);
  Tensor parts = parts_like(out, d.chunks);
  d.out = parts.data_ptr();
  Place place(x);
  launch_dots(d, type_of(x), native(stream));
  if (d.chunks > 1) add_parts(d.out, out, 1, d.chunks, d.groups * d.tasks, native(stream));
}

}  // namespace
}  // namespace ops

STABLE_TORCH_LIBRARY_FRAGMENT(palora_native, library) {
  library.def(
      "low_rank_update(Tensor? base, Tensor left, Tensor right, Tensor? lam, Tensor? bias, int batches_per_ray, "
      "int rows_per_ray, int stream, Tensor(a!) y) -> ()");
  library.def("combine(Tensor? base, Tensor z, Tensor c, Tensor? bias, int stream, Tensor(a!) out) -> ()");
  library.def("weigh(Tensor s, Tensor lam, bool over_rays, int stream, Tensor(a!) out) -> ()");
  library.def("column_sums(Tensor x, Tensor? y, int stream, Tensor(a!) out) -> ()");
  library.def("plane_sums(Tensor x, Tensor? y, int stream, Tensor(a!) out) -> ()");
  library.def("dots(Tensor x, Tensor y, int stream, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(palora_native, PALORA_DISPATCH_KEY, library) {
  library.impl("low_rank_update", TORCH_BOX(&ops::low_rank_update));
  library.impl("combine", TORCH_BOX(&ops::combine));
  library.impl("weigh", TORCH_BOX(&ops::weigh));
  library.impl("column_sums", TORCH_BOX(&ops::column_sums));
  library.impl("plane_sums", TORCH_BOX(&ops::plane_sums));
  library.impl("dots", TORCH_BOX(&ops::dots));
}

}  // namespace palora_cuda
