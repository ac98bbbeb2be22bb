// An optimizer seen from outside: so many slots, and a way to bring rows up to date. Each rule hides behind it.
#ifndef TFPS_OPS_CORE_ROW_UPDATER_H_
#define TFPS_OPS_CORE_ROW_UPDATER_H_

#include <memory>
#include <string>

#include "tfps_ops/core/cpu_target.h"
#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/row_kernels.h"
#include "tfps_ops/core/status.h"

namespace tfps {

// Immutable, so any number of threads may call it at a time, as long as no two of them are given the same row: the
// kernels see to that by holding the exclusive locks of a table and its slots, and the rows of one call are different.
class RowUpdater {
 public:
  virtual ~RowUpdater() = default;

  // How many variables go with a table.
  virtual int slots() const = 0;

  // Floats of a row of slot number `slot`, for a table with rows of `dim` floats: `dim` or 1. A slot has as many rows as
  // its table.
  virtual int64_t SlotWidth(int slot, int64_t dim) const = 0;

  // How many numbers come with every update: the hyperparameters of the rule in their order, and last the decay.
  virtual int hyperparameters() const = 0;

  // Reads, updates and writes each row of the block once. Large blocks are shared out over threads by rows.
  // Cost: O(block.count * block.dim), one fetch from memory a row and slot.
  virtual void Apply(const float* hyperparameters, const RowBlock& block, const ParallelFor& parallel) const = 0;

  // The two halves of Apply, for stores whose rows do not lie in one matrix. Prepare computes in place what is the same for all
  // rows of an update; ApplyPrepared then updates the rows of a block, on the caller's thread, as often as there are blocks.
  virtual void Prepare(float* hyperparameters) const = 0;
  virtual void ApplyPrepared(const float* prepared, const RowBlock& block) const = 0;
};

// The updater of the rule with this name (see RowRules), on the best loops this CPU can run or on those of `target`; an
// InvalidArgument error, which names all rules, for a name that none has.
Result<std::unique_ptr<RowUpdater>> MakeRowUpdater(const std::string& rule, CpuTarget target = BestCpuTarget());

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROW_UPDATER_H_
