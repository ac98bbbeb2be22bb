// The table from targets to loops, and what the CPU says that it can run.
#include "tfps_ops/core/cpu_target.h"

#include "tfps_ops/core/pair_kernels.h"
#include "tfps_ops/core/row_kernels.h"

namespace tfps {

std::vector<CpuTarget> SupportedCpuTargets() {
  // On other machines than x86-64 the baseline is all there is: NEON, for example, is part of it.
  std::vector<CpuTarget> targets = {CpuTarget::kBaseline};
#if defined(__x86_64__)
  // Needed before __builtin_cpu_supports where static constructors of other libraries may run first.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) targets.push_back(CpuTarget::kAvx2);
  // The loops use AVX-512F alone, which every CPU with AVX-512 has.
  if (__builtin_cpu_supports("avx512f")) targets.push_back(CpuTarget::kAvx512);
#endif
  return targets;
}

CpuTarget BestCpuTarget() {
  // Asked for once a process: it is read on the path of every step.
  static const CpuTarget best = SupportedCpuTargets().back();
  return best;
}

// The loops live in their targets' files, so that no code compiled for AVX-512 is run, or merged by the linker, elsewhere.
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
