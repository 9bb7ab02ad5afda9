// What the operators call: each function chooses the width of its accesses and its grid, and launches. No torch here, so
// that these files compile in seconds, with nvcc for a device or with another compiler for the tests.
#pragma once

#include "../device/combine.h"
#include "../device/sums.h"
#include "../device/update.h"
#include "../device/weigh.h"

namespace palora_cuda {

enum class Type { Float, Double, BFloat16, Half };

using Stream = void*;  // a cudaStream_t

// Fill in the fields that describe the grid.
void launch_update(Update work, Type type, Stream stream);
void launch_combine(const Combine& work, Type type, Stream stream);
void launch_weigh(const Weigh& work, Type type, Stream stream);
void launch_plane_sums(PlaneSums work, Type type, Stream stream);

// Sums with `chunks` > 1 leave that many parts, to be added by launch_column_sums in the arithmetic type.
index column_sum_chunks(index rows);
void launch_column_sums(ColumnSums work, Type type, Stream stream);
index dots_chunks(index elements);
void launch_dots(Dots work, Type type, Stream stream);

}  // namespace palora_cuda
