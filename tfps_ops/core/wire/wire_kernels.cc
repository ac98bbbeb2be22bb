// The loops over floats and bytes for every target, and the choice between them.
#include "tfps_ops/core/wire/wire_kernels.h"

// Functions of the headers above stay baseline: only what a target's namespace has is compiled for it.
namespace tfps {

namespace wire_baseline {
#include "tfps_ops/core/wire/wire_kernels.inc"
}  // namespace wire_baseline

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
namespace wire_avx2 {
#include "tfps_ops/core/wire/wire_kernels.inc"
}  // namespace wire_avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif
namespace wire_avx512 {
#include "tfps_ops/core/wire/wire_kernels.inc"
}  // namespace wire_avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)

const WireKernels& WireKernelsFor(CpuTarget target) {
  static constexpr WireKernels kBaseline = wire_baseline::kWireKernels;
#if defined(__x86_64__)
  static constexpr WireKernels kAvx2 = wire_avx2::kWireKernels, kAvx512 = wire_avx512::kWireKernels;
  if (target == CpuTarget::kAvx512) return kAvx512;
  if (target == CpuTarget::kAvx2) return kAvx2;
#endif
  return kBaseline;
}

}  // namespace tfps
