// The backward pass of relu(x + bias) in bfloat16, in one pass over memory.
//
// TensorFlow takes two: one for the gradient of x, and one that adds it up over the rows in bfloat16. Such a sum keeps 8 bits,
// so beyond a few hundred rows most of what is added is lost. Here sums are float32 and rounded once, at the end.
// Cost: reads two matrices and writes one. Threads: the columns are split, so the bits are the same for any number of them.
#ifndef TFPS_OPS_CORE_BIAS_GRADIENT_H_
#define TFPS_OPS_CORE_BIAS_GRADIENT_H_

#include <cstdint>

#include "tfps_ops/core/cpu_target.h"
#include "tfps_ops/core/parallel.h"

namespace tfps {

// The bits of a bfloat16: the upper half of a float32.
using Bfloat16Bits = uint16_t;

struct ReluBiasGradient {
  const Bfloat16Bits* upstream = nullptr;  // [rows, columns], the gradient of the result
  const Bfloat16Bits* results = nullptr;   // [rows, columns], relu(x + bias)
  int64_t rows = 0;
  int64_t columns = 0;
  Bfloat16Bits* gradient = nullptr;        // [rows, columns], of x: `upstream` where the result is above 0, else 0 * upstream
  Bfloat16Bits* bias_gradient = nullptr;   // [columns], the sums of `gradient` over the rows
};

// Every target computes the same bits. `target` must be one that this CPU supports.
void ComputeReluBiasGradient(const ReluBiasGradient& work, CpuTarget target, const ParallelFor& parallel_for);

// To the nearest bfloat16, of two that are as near to the even one, as TensorFlow rounds. NaN stays NaN.
Bfloat16Bits RoundToBfloat16(float value);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_BIAS_GRADIENT_H_
