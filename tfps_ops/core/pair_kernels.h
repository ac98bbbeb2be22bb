// The loop over the pairs of pair_trainer.h, compiled once for each kind of CPU as those of row_kernels.h are.
#ifndef TFPS_OPS_CORE_PAIR_KERNELS_H_
#define TFPS_OPS_CORE_PAIR_KERNELS_H_

#include <cstdint>

#include "tfps_ops/core/cpu_target.h"
#include "tfps_ops/core/pair_trainer.h"
#include "tfps_ops/core/row_rules.h"

namespace tfps {

// A cache line of 64 bytes.
constexpr int64_t kFloatsALine = 16;

// Rows that lie in whole cache lines. Beyond `dim` a row is filled with 0 and a slot with 1, which has no effect on a product
// and is not changed by an update. Example: rows of 100 floats have a stride of 112.
// Ownership: nothing is owned. Threads: one call, one block; nothing else is touched.
struct PairBlock {
  Pairs pairs;
  float* rows[1 + kMaxSlots] = {};  // rows and slots, each [any, stride]
  int64_t stride = 0;               // a multiple of kFloatsALine, at least 1
  float* scratch = nullptr;         // [3, stride], in whole cache lines
};

// The loop for one rule that pairs can be trained by.
struct PairKernel {
  RowRule rule;
  // Trains the pairs and returns the sum of their losses; `hyperparameters` are the numbers of the rule.
  double (*train)(const float* hyperparameters, const PairBlock& block);
};

struct PairKernels {
  const PairKernel* rules;  // [rule_count]
  int rule_count;
};

// The loops for `target`, which this CPU must support.
const PairKernels& PairKernelsFor(CpuTarget target);

namespace baseline { extern const PairKernels kPairKernels; }
namespace avx2 { extern const PairKernels kPairKernels; }
namespace avx512 { extern const PairKernels kPairKernels; }

}  // namespace tfps

#endif  // TFPS_OPS_CORE_PAIR_KERNELS_H_
