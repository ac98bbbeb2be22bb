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
// Groups are the same in minibatches. The centers of a group share its targets, and all its scores are of the rows as they are
// before the group. With slope[i][j] = sigmoid(c_i * t_j) - (j == 0):
//   first, for each target in order, the rule updates t_j with the gradient  sum over i of slope[i][j] * c_i
//   then, for each center in order, the rule updates c_i with the gradient  sum over j of slope[i][j] * t_j
// where c_i and t_j on the right are the rows before the group. A row that a group names twice gets two updates, one after the
// other. So the three sums over a group are products of small matrices, and each row is read and written once a group
// and not once a pair. Source: Ji, Satish, Li and Dubey 2016, Parallelizing Word2Vec in Shared and Distributed Memory, section 3.
//
// The rows of a window are a compact copy of those that it names, so the tables of the servers are not touched. One
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

// Nothing is owned.
// Example: two groups, of the centers 4 and 5 with the targets 0 and 1, and of the center 4 with 2 and 3:
// centers = {4, 5, 4}, sizes = {2, 1}, targets = {0, 1, 2, 3}, count = 2, width = 2, center_count = 3.
struct Groups {
  const int32_t* centers = nullptr;  // [center_count], each in [0, rows); those of a group are neighbours
  const int32_t* sizes = nullptr;    // [count], the centers of each group; a group without centers moves no row
  const int32_t* targets = nullptr;  // [count, width], as for Pairs
  int64_t count = 0;
  int64_t width = 1;
  int64_t center_count = 0;
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

// The same for groups, whose sizes must be at least 0 and come to center_count. O(center_count + count * width).
Status CheckGroups(const Groups& groups, int64_t rows);

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

  // The same for groups, in their order, with the same bits on every CPU.
  // Cost: O(rows * dim + center_count * width * dim).
  virtual Result<double> Train(const float* hyperparameters, const Groups& groups, const TrainedRows& rows) const = 0;
};

// For the rule "sgd" or "adagrad" (see rules/sgd.inc, rules/adagrad.inc); an InvalidArgument error for another
// name.
Result<std::unique_ptr<PairTrainer>> MakePairTrainer(const std::string& rule, CpuTarget target = BestCpuTarget());

}  // namespace tfps

#endif  // TFPS_OPS_CORE_PAIR_TRAINER_H_
