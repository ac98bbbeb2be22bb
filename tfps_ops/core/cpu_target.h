// Which instruction sets the loops over rows are compiled for, and which of them this CPU has.
//
// One library serves every CPU of its kind: it holds the loops once for each target, and picks at run time. Servers of one
// cluster may have different CPUs, so every target computes the same bits (see row_kernels.h).
// Threads: any number may call.
#ifndef TFPS_OPS_CORE_CPU_TARGET_H_
#define TFPS_OPS_CORE_CPU_TARGET_H_

#include <vector>

namespace tfps {

enum class CpuTarget {
  kBaseline,  // whatever the compiler assumes: SSE2 on x86-64, NEON on AArch64
  kAvx2,      // 8 floats at a time: Intel since 2013, AMD since 2015
  kAvx512,    // 16 floats at a time: servers of Intel since 2017, of AMD since 2022
};

// The targets this CPU can run, best last; kBaseline is always the first.
std::vector<CpuTarget> SupportedCpuTargets();

// The last of them, found once.
CpuTarget BestCpuTarget();

}  // namespace tfps

#endif  // TFPS_OPS_CORE_CPU_TARGET_H_
