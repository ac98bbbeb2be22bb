// Which instruction sets the loops over rows are compiled for, and which of them this CPU has.
#ifndef TFPS_OPS_CORE_CPU_TARGET_H_
#define TFPS_OPS_CORE_CPU_TARGET_H_

#include <vector>

namespace tfps {

enum class CpuTarget {
  kBaseline,  // whatever the compiler assumes: SSE2 on x86-64, NEON on AArch64
  kAvx2,
  kAvx512,
};

// The targets this CPU can run, best last; kBaseline is always the first.
std::vector<CpuTarget> SupportedCpuTargets();

// The last of them, found once.
CpuTarget BestCpuTarget();

}  // namespace tfps

#endif  // TFPS_OPS_CORE_CPU_TARGET_H_
