// For every processor: 16-byte vectors (SSE2 on x86, NEON on Arm).
#include "kernels.h"
#include "tiles.h"

#define PALORA_ISA baseline
#define PALORA_VECTOR_BYTES 16
#include "body.h"
