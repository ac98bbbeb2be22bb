// Finds the bytes that end cells and lines, 64 at a time, compiled once for each kind of CPU as the loops of row_kernels.h are.
//
// Threads: pure functions. Cost: about 0.05 ns a byte with AVX2 and one store for each byte that is found.
#ifndef TFPS_OPS_CORE_TEXT_SEPARATORS_H_
#define TFPS_OPS_CORE_TEXT_SEPARATORS_H_

#include <cstdint>

#include "tfps_ops/core/cpu_target.h"

namespace tfps {

struct SeparatorKernels {
  // Writes the offsets in `text` of all bytes that are `first` or `second`, in order, and returns their number. `offsets` has
  // room for `size`, which is below 2^32.
  // Example: in "a,b\n" the bytes ',' and '\n' have the offsets 1 and 3.
  int64_t (*find)(const char* text, int64_t size, char first, char second, uint32_t* offsets);
  // Returns how many bytes are `wanted`.
  int64_t (*count)(const char* text, int64_t size, char wanted);
};

// The functions for `target`, which this CPU must support.
const SeparatorKernels& SeparatorKernelsFor(CpuTarget target);

namespace baseline { extern const SeparatorKernels kSeparatorKernels; }
namespace avx2 { extern const SeparatorKernels kSeparatorKernels; }

}  // namespace tfps

#endif  // TFPS_OPS_CORE_TEXT_SEPARATORS_H_
