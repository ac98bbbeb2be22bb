// The loops over rows of floats, compiled once for each kind of CPU and picked at run time.
//
// Every target computes the same bits: elements of a row do not mix (those of a product do, in one order for all targets),
// and no multiply-add is fused. Cost: O(count * dim);
// for tables larger than the caches it is the fetch of the rows, so rows are prefetched a few ahead.
// Threads: a kernel keeps no state. Two calls must not touch one row at a time (see row_updater.h for who sees to that).
#ifndef TFPS_OPS_CORE_ROW_KERNELS_H_
#define TFPS_OPS_CORE_ROW_KERNELS_H_

#include <cstdint>

#include "tfps_ops/core/cpu_target.h"
#include "tfps_ops/core/row_rules.h"

namespace tfps {

// Rows of one table that get a gradient. Rows are within the table and different from each other: threads split them.
// Example: rows {7, 2}, dim 3 and gradients {g7 g7 g7 g2 g2 g2} update 3 floats from table + 21 and from table + 6.
struct RowBlock {
  float* table = nullptr;                // [table rows, dim]
  float* slots[kMaxSlots] = {};          // as many as the rule has, each [table rows, its SlotWidth]
  const int64_t* rows = nullptr;         // [count]
  const float* gradients = nullptr;      // [count, dim]
  const float* const* measures = nullptr;  // [count], or null: the measures of a gradient that repeats, [dim] each; null for
                                         // the measure of the gradient itself
  int64_t count = 0;
  int64_t dim = 0;
};

// Rows to be added up, for the gradients of a lookup: out[position[i]] += values[i] for the positions in [begin, end); others
// are passed over.
struct AddBlock {
  const float* values = nullptr;         // [count, dim]
  const int32_t* positions = nullptr;    // [count]
  int64_t count = 0;
  int64_t dim = 0;
  int64_t begin = 0;
  int64_t end = 0;
  float* out = nullptr;                  // [at least end, dim]
};

// The same for rows that several elements share, each of which takes its share of one:
// out[positions[i]] += shares[i] * values[sources[i]].
struct AddSharesBlock {
  const float* values = nullptr;         // [any, dim]
  const int64_t* sources = nullptr;      // [count]
  const float* shares = nullptr;         // [count]
  const int32_t* positions = nullptr;    // [count]
  int64_t count = 0;
  int64_t dim = 0;
  int64_t begin = 0;
  int64_t end = 0;
  float* out = nullptr;                  // [at least end, dim]
};

// One bag of a lookup, whose rows are added up to one: out = sum(weights[i] * rows[places[i]]) / divisor, 0 where the divisor
// is.
struct PoolBlock {
  const float* rows = nullptr;           // [any, dim]
  const int32_t* places = nullptr;       // [ahead], of which the first `count` are the bag's
  const float* weights = nullptr;        // [count], or null where all are 1
  int64_t count = 0;
  int64_t ahead = 0;                     // at least count; rows of the places after the bag's are prefetched
  int64_t dim = 0;
  float divisor = 1;
  float* out = nullptr;                  // [dim]
};

// out[i] = gradient * rows[places[i]], the inner product.
struct DotBlock {
  const float* gradient = nullptr;       // [dim]
  const float* rows = nullptr;           // [any, dim]
  const int32_t* places = nullptr;       // [count]
  int64_t count = 0;
  int64_t dim = 0;
  float* out = nullptr;                  // [count]
};

// One rule of rules/*.inc with its loop. Both functions take the numbers of the rule, `rule.hyperparameter_count` floats.
struct RuleKernel {
  RowRule rule;
  // To be called once for an update, before any `apply`: computes in place what is the same for every row.
  void (*prepare)(float* hyperparameters);
  // Updates the rows of a block, one after the other. Keeps no state: several threads may call it with different rows.
  void (*apply)(const float* hyperparameters, const RowBlock& block);
};

// One set of loops. A const table of functions: copying a pointer to it is all that dispatch costs.
struct RowKernels {
  void (*add)(const AddBlock& block);
  void (*add_squares)(const AddBlock& block);     // of the squares of the values
  void (*add_magnitudes)(const AddBlock& block);  // of their absolute values
  void (*add_shares)(const AddSharesBlock& block);
  void (*pool)(const PoolBlock& block);
  void (*dot)(const DotBlock& block);
  // Between n floats and the bits of n bfloat16 (rows/row_conversion.h).
  void (*widen)(const uint16_t* from, int64_t n, float* out);
  void (*narrow)(const float* from, int64_t n, uint16_t* out);
  void (*narrow_at_random)(const float* from, int64_t n, uint64_t stream, uint16_t* out);
  const RuleKernel* rules;  // [rule_count], in one order for all targets
  int rule_count;
};

// The loops for `target`, which this CPU must support: those of another end the process with an illegal instruction.
const RowKernels& RowKernelsFor(CpuTarget target);

namespace baseline { extern const RowKernels kRowKernels; }
namespace avx2 { extern const RowKernels kRowKernels; }
namespace avx512 { extern const RowKernels kRowKernels; }

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROW_KERNELS_H_
