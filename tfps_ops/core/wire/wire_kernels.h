// The loops that turn floats into fewer bytes and back, compiled once for each kind of CPU and picked at run time.
//
// Every target computes the same bits: worker and server may have different CPUs. Cost: a few operations an element, a
// vector of elements at a time. Threads: a kernel keeps no state.
//
// A bfloat16 is the upper half of a float32: its sign, its exponent and 7 of its 23 bits. An int8 code is a multiple of the
// scale of its row, which is the smallest bfloat16 that is at least max|x| / 127: x becomes round(x / scale).
//
// Rounding is to the nearest, ties to even; or stochastic: up with the probability of the part that is cut off, so that the
// mean of many is exact. The random numbers are a hash of the element's bits and its place: the same input gives the same
// output, on every CPU.
//
// Elements that are not finite stay so. bfloat16 keeps NaN and the infinities, an int8 code of -128 is NaN, and the scale is
// that of the finite elements.
#ifndef TFPS_OPS_CORE_WIRE_WIRE_KERNELS_H_
#define TFPS_OPS_CORE_WIRE_WIRE_KERNELS_H_

#include <cstdint>

#include "tfps_ops/core/cpu_target.h"

namespace tfps {

struct WireKernels {
  // `first` is the place of the first element in the message, for the hash.
  void (*to_bfloat16)(const float* in, int64_t count, uint32_t first, bool stochastic, uint16_t* out);
  void (*from_bfloat16)(const uint16_t* in, int64_t count, float* out);
  // rows [count, dim] become scales [count] and codes [count, dim].
  void (*to_int8)(const float* rows, int64_t count, int64_t dim, uint32_t first, bool stochastic, uint16_t* scales,
                  int8_t* codes);
  void (*from_int8)(const uint16_t* scales, const int8_t* codes, int64_t count, int64_t dim, float* rows);
};

// The loops for `target`, which this CPU must support: those of another end the process with an illegal instruction.
const WireKernels& WireKernelsFor(CpuTarget target);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_WIRE_WIRE_KERNELS_H_
