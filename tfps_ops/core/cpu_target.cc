#include "tfps_ops/core/cpu_target.h"

#include "tfps_ops/core/pair_kernels.h"
#include "tfps_ops/core/row_kernels.h"

namespace tfps {

std::vector<CpuTarget> SupportedCpuTargets() {
  std::vector<CpuTarget> targets = {CpuTarget::kBaseline};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) targets.push_back(CpuTarget::kAvx2);
  if (__builtin_cpu_supports("avx512f")) targets.push_back(CpuTarget::kAvx512);
#endif
  return targets;
}

CpuTarget BestCpuTarget() {
  static const CpuTarget best = SupportedCpuTargets().back();
  return best;
}

const RowKernels& RowKernelsFor(CpuTarget target) {
#if defined(__x86_64__)
  if (target == CpuTarget::kAvx512) return avx512::kRowKernels;
  if (target == CpuTarget::kAvx2) return avx2::kRowKernels;
#endif
  return baseline::kRowKernels;
}

const PairKernels& PairKernelsFor(CpuTarget target) {
#if defined(__x86_64__)
  if (target == CpuTarget::kAvx512) return avx512::kPairKernels;
  if (target == CpuTarget::kAvx2) return avx2::kPairKernels;
#endif
  return baseline::kPairKernels;
}

}  // namespace tfps
