// Picks the instruction set once, from what the processor offers. PALORA_ISA=baseline|avx2|avx512 lowers the choice, for
// tests; it cannot raise it above what the processor has.
#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "tiles.h"

namespace palora {

#define PALORA_DECLARE(ISA)                      \
  namespace ISA {                                \
  extern const Kernels<float> float_kernels;     \
  extern const Kernels<double> double_kernels;   \
  extern const Kernels<bf16> bf16_kernels;       \
  extern const Tiles<float> float_tiles;         \
  extern const Tiles<double> double_tiles;       \
  }
PALORA_DECLARE(baseline)
#if defined(__x86_64__)
PALORA_DECLARE(avx2)
PALORA_DECLARE(avx512)
#endif

namespace {

enum Level { BASELINE, AVX2, AVX512 };

Level detect() {
#if defined(__x86_64__)
  const char* asked = std::getenv("PALORA_ISA");
  Level most = AVX512;
  if (asked != nullptr && std::strcmp(asked, "baseline") == 0) most = BASELINE;
  if (asked != nullptr && std::strcmp(asked, "avx2") == 0) most = AVX2;
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && most == AVX512) return AVX512;
  if (avx2 && most >= AVX2) return AVX2;
#endif
  return BASELINE;
}

Level level() {
  static const Level found = detect();
  return found;
}

}  // namespace

#if defined(__x86_64__)
#define PALORA_PICK(NAME) \
  (level() == AVX512 ? avx512::NAME : level() == AVX2 ? avx2::NAME : baseline::NAME)
#else
#define PALORA_PICK(NAME) (baseline::NAME)
#endif

template <>
const Kernels<float>& table<float>() {
  return PALORA_PICK(float_kernels);
}
template <>
const Kernels<double>& table<double>() {
  return PALORA_PICK(double_kernels);
}
template <>
const Kernels<bf16>& table<bf16>() {
  return PALORA_PICK(bf16_kernels);
}

template <>
const Tiles<float>& tiles<float>() {
  return PALORA_PICK(float_tiles);
}
template <>
const Tiles<double>& tiles<double>() {
  return PALORA_PICK(double_tiles);
}

const char* instruction_set() {
  return level() == AVX512 ? "avx512" : level() == AVX2 ? "avx2" : "baseline";
}

}  // namespace palora
