// A window of word2vec and its kin in one pass: pairs of rows that should score high, each with negatives that should not.
//
// For pair i, in order, with the row c = rows[centers[i]] as it is then, for each of its targets, in order:
//   t = rows[targets[i][j]];  score = c * t, the inner product;  label = (j == 0)
//   slope = sigmoid(score) - label, which is the derivative of the logistic loss for the score
//   g += slope * t, for the t before its update;  then the rule updates t with the gradient slope * c
// and then the rule updates the center's row with g. So a target that a pair has twice is updated twice, one after the
// other, as in word2vec.c. The loss of a target is softplus(-score) or softplus(score), but at most 87.3, the logarithm of
// the smallest float; that of a score that is no number is none either.
//
// The rows of a window are a compact copy of those that its pairs name, so the tables of the servers are not touched. One
// thread trains them: the result of a window is the same whatever else the process does, and windows of several workers run at
// once.
#ifndef TFPS_OPS_CORE_PAIR_TRAINER_H_
#define TFPS_OPS_CORE_PAIR_TRAINER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "tfps_ops/core/cpu_target.h"
#include "tfps_ops/core/row_rules.h"
#include "tfps_ops/core/status.h"

namespace tfps {

// Nothing is owned.
struct Pairs {
  const int32_t* centers = nullptr;  // [count], each in [0, rows)
  const int32_t* targets = nullptr;  // [count, width], each in [0, rows); the first of a pair is the positive one
  int64_t count = 0;
  int64_t width = 1;
};

// The rows as they are before, and where to write what the pairs add to them; nothing is owned.
// Example: for "adagrad", before[0] are the rows, before[1] the accumulators, and deltas[0] and deltas[1] what each gains.
struct TrainedRows {
  const float* before[1 + kMaxSlots] = {};  // the rows and as many slots as the rule has, each [rows, dim]
  float* deltas[1 + kMaxSlots] = {};        // the same; not the memory of `before`
  int64_t rows = 0;
  int64_t dim = 0;
};

// Whether all centers and targets are in [0, rows); the error names the first pair that has another. O(count * width).
Status CheckPairs(const Pairs& pairs, int64_t rows);

// One rule's way to train. Immutable: any number of threads may call it, each with rows of its own.
class PairTrainer {
 public:
  virtual ~PairTrainer() = default;
  virtual int slots() const = 0;            // as for RowUpdater
  virtual int hyperparameters() const = 0;  // as for RowUpdater

  // Trains the pairs in order, in the caller's thread, and returns the sum of their losses. The same bits on every CPU but
  // for what the exponential of the system's library makes of them.
  // Cost: O(rows * dim + count * width * dim); beside `deltas` it holds a copy of the rows and slots, padded to whole
  // cache lines. A ResourceExhausted error where there is no memory for that.
  virtual Result<double> Train(const float* hyperparameters, const Pairs& pairs, const TrainedRows& rows) const = 0;
};

// For the rule "sgd" or "adagrad" (see rules/sgd.inc, rules/adagrad.inc); an InvalidArgument error for another
// name.
Result<std::unique_ptr<PairTrainer>> MakePairTrainer(const std::string& rule, CpuTarget target = BestCpuTarget());

}  // namespace tfps

#endif  // TFPS_OPS_CORE_PAIR_TRAINER_H_
