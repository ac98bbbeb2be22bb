// The loops over the pairs and the groups of pair_trainer.h, compiled once for each kind of CPU as those of row_kernels.h are.
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
struct PaddedRows {
  float* rows[1 + kMaxSlots] = {};  // rows and slots, each [any, stride]
  int64_t stride = 0;               // a multiple of kFloatsALine, at least 1
};

// Pairs, and a place of [3, stride] floats for the loop to work in.
struct PairBlock : PaddedRows {
  Pairs pairs;
  float* scratch = nullptr;  // in whole cache lines
};

// Groups, and the places of the loop. `most` is the size of the largest group.
struct GroupBlock : PaddedRows {
  Groups groups;
  float* centers = nullptr;    // [most, stride]: the centers of a group as they are before it
  float* gradients = nullptr;  // [most, stride]: theirs
  float* slopes = nullptr;     // [most * width], filled up to whole cache lines
  const float* signs = nullptr;  // as many: -1 at a positive target, 1 at a negative one
};

// The loops for one rule that pairs can be trained by.
struct PairKernel {
  RowRule rule;
  // Trains the pairs and returns the sum of their losses; `hyperparameters` are the numbers of the rule.
  double (*train)(const float* hyperparameters, const PairBlock& block);
  // The same for groups.
  double (*train_groups)(const float* hyperparameters, const GroupBlock& block);
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
