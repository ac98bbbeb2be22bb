// An optimizer seen from outside: so many slots, and a way to bring rows up to date. Each rule hides behind it.
#ifndef TFPS_OPS_CORE_ROW_UPDATER_H_
#define TFPS_OPS_CORE_ROW_UPDATER_H_

#include <cstdint>
#include <memory>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/row_kernels.h"
#include "tfps_ops/core/row_rules.h"

namespace tfps {

// What changes from step to step.
struct StepInputs {
  float learning_rate = 0;
  int64_t step = 1;  // counted from 1
};

// Immutable, so any number of threads may call it at a time, as long as no two of them are given the same row: the
// kernels see to that by holding the exclusive locks of a table and its slots, and the rows of one call are different.
class RowUpdater {
 public:
  virtual ~RowUpdater() = default;

  // How many variables of the table's shape go with it.
  virtual int slots() const = 0;

  // Reads, updates and writes each row of the block once. Large blocks are shared out over threads by rows.
  virtual void Apply(const StepInputs& inputs, const RowBlock& block, const ParallelFor& parallel) const = 0;
};

// The updater of a rule whose step inputs are still to come, on the best loops this CPU can run or on those of `target`.
template <class Rule>
std::unique_ptr<RowUpdater> MakeRowUpdater(const Rule& rule, CpuTarget target = BestCpuTarget());

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROW_UPDATER_H_
