// The conversions of csrc/device/numbers.h on arrays, for the tests.
#include "../../csrc/device/numbers.h"

using namespace palora_cuda;

extern "C" {
void widen_bf16(const bf16* in, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i]);
}
void widen_fp16(const fp16* in, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i]);
}
void narrow_bf16(const float* in, bf16* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) narrow(in[i], out[i]);
}
void narrow_fp16(const float* in, fp16* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) narrow(in[i], out[i]);
}
}
