// Rows are copied to whole cache lines, trained there, and the difference is returned. The copy is made
// once a window, and saves the loops of every pair all partial vectors.
#include "tfps_ops/core/pair_trainer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "tfps_ops/core/pair_kernels.h"

namespace tfps {
namespace {

// In bytes.
constexpr size_t kCacheLine = kFloatsALine * sizeof(float);
constexpr size_t kHugePage = size_t{2} << 20;  // 2 MB, on x86-64 and most of AArch64

// Memory for floats, in whole cache lines; not initialized. A large buffer lies on large pages where the system has them:
// rows are read in random order, and with small pages each read would miss the TLB (the cache of page addresses) as well. A
// small one does not: the TLB covers it anyway, and the system clears a large page whole, however little of it is used.
class LargeBuffer {
 public:
  // data() is null where there is no memory.
  explicit LargeBuffer(int64_t floats) {
    const size_t needed = floats * sizeof(float), page = needed < kHugePage / 2 ? kCacheLine : kHugePage;
    // aligned_alloc wants a multiple of the alignment. One more than needed: a block of 0 bytes would have no address.
    const size_t bytes = (needed / page + 1) * page;
    data_ = static_cast<float*>(std::aligned_alloc(page, bytes));
#if defined(__linux__)
    if (data_ != nullptr && page == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);  // where it fails it is only slower
#endif
  }
  ~LargeBuffer() { std::free(data_); }
  LargeBuffer(const LargeBuffer&) = delete;
  LargeBuffer& operator=(const LargeBuffer&) = delete;
  float* data() { return data_; }

 private:
  float* data_;
};

// Copies rows to whole cache lines, with `filler` behind each up to the next one.
// Example: rows of 10 floats and a stride of 16 have 6 floats of filler each.
void CopyPadded(const float* from, int64_t rows, int64_t dim, float filler, int64_t stride, float* to) {
  for (int64_t r = 0; r < rows; ++r, from += dim, to += stride) {
    std::memcpy(to, from, dim * sizeof(float));
    for (int64_t j = dim; j < stride; ++j) to[j] = filler;
  }
}

// deltas = after - before: what training has added, without the padding.
void Subtract(const float* after, int64_t stride, const float* before, int64_t rows, int64_t dim, float* deltas) {
  for (int64_t r = 0; r < rows; ++r, after += stride, before += dim, deltas += dim) {
    for (int64_t j = 0; j < dim; ++j) deltas[j] = after[j] - before[j];
  }
}

// How many floats fill whole cache lines that hold `floats`.
int64_t WholeLines(int64_t floats) { return (floats + kFloatsALine - 1) / kFloatsALine * kFloatsALine; }

// A copy of the rows and slots in whole cache lines, and room for a loop to work in behind them.
class PaddedCopy {
 public:
  // ok() is false where there is no memory.
  PaddedCopy(const TrainedRows& rows, int slots, int64_t scratch)
      : rows_(rows),
        slots_(slots),
        // Whole cache lines: the loops then have no partial vectors, and a row never shares a line with its neighbour.
        stride_(WholeLines(rows.dim)),
        buffer_(rows.rows * (1 + slots) * stride_ + scratch) {
    if (!ok()) return;
    for (int i = 0; i <= slots_; ++i) {
      // Padding of a slot is 1: an update divides by its root, and 0 / 0 would be slow and spread.
      CopyPadded(rows.before[i], rows.rows, rows.dim, i == 0 ? 0 : 1, stride_, row(i));
    }
  }

  bool ok() { return buffer_.data() != nullptr; }
  float* scratch() { return row(1 + slots_); }

  // Points a loop to the copy.
  void Describe(PaddedRows* rows) {
    rows->stride = stride_;
    for (int i = 0; i <= slots_; ++i) rows->rows[i] = row(i);
  }

  // Writes what training has added. Slots have deltas too: the accumulators of several workers add up.
  void WriteDeltas() {
    for (int i = 0; i <= slots_; ++i) {
      Subtract(row(i), stride_, rows_.before[i], rows_.rows, rows_.dim, rows_.deltas[i]);
    }
  }

  Status NoMemory() const {
    return ResourceExhausted("no memory for a copy of ", rows_.rows, " rows of ", rows_.dim, " floats and of their ",
                             slots_, " slots.");
  }

 private:
  float* row(int matrix) { return buffer_.data() + matrix * rows_.rows * stride_; }

  const TrainedRows& rows_;
  const int slots_;
  const int64_t stride_;
  LargeBuffer buffer_;
};

// Trains pairs by the loops of one rule.
class RulePairTrainer : public PairTrainer {
 public:
  // Of a static table, so it lives as long as the program.
  explicit RulePairTrainer(const PairKernel& kernel) : kernel_(kernel) {}

  int slots() const override { return kernel_.rule.slot_count(); }

  int hyperparameters() const override { return kernel_.rule.hyperparameter_count; }

  // Copy in, train, copy the differences out.
  Result<double> Train(const float* hyperparameters, const Pairs& pairs, const TrainedRows& rows) const override {
    PaddedCopy copy(rows, slots(), 3 * WholeLines(rows.dim));
    if (!copy.ok()) return copy.NoMemory();
    PairBlock block;
    copy.Describe(&block);
    block.pairs = pairs;
    block.scratch = copy.scratch();
    // All the time is spent here.
    const double loss = kernel_.train(hyperparameters, block);
    copy.WriteDeltas();
    return loss;
  }

  Result<double> Train(const float* hyperparameters, const Groups& groups, const TrainedRows& rows) const override {
    int64_t most = 0;
    for (int64_t g = 0; g < groups.count; ++g) most = std::max<int64_t>(most, groups.sizes[g]);
    const int64_t scores = WholeLines(most * groups.width), stride = WholeLines(rows.dim);
    PaddedCopy copy(rows, slots(), 2 * most * stride + 2 * scores);
    if (!copy.ok()) return copy.NoMemory();
    GroupBlock block;
    copy.Describe(&block);
    block.groups = groups;
    block.centers = copy.scratch();
    block.gradients = block.centers + most * stride;
    block.slopes = block.gradients + most * stride;
    // The signs are those of every group: the first target of each center is the positive one.
    float* signs = block.slopes + scores;
    for (int64_t i = 0; i < scores; ++i) signs[i] = i % groups.width == 0 ? -1 : 1;
    block.signs = signs;
    const double loss = kernel_.train_groups(hyperparameters, block);
    copy.WriteDeltas();
    return loss;
  }

 private:
  const PairKernel& kernel_;
};

// The first of some ids that is not in [0, rows), or -1. No early exit within a block: a loop without branches is faster.
int64_t FirstOutside(const int32_t* ids, int64_t count, int64_t rows) {
  constexpr int64_t kBlock = 256;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    bool good = true;
    for (int64_t i = begin; i < end; ++i) good &= ids[i] >= 0 && ids[i] < rows;
    for (int64_t i = begin; i < end && !good; ++i) {
      if (ids[i] < 0 || ids[i] >= rows) return i;
    }
  }
  return -1;
}

}  // namespace

Status CheckPairs(const Pairs& pairs, int64_t rows) {
  for (int64_t i = 0; i < pairs.count; ++i) {
    bool good = pairs.centers[i] >= 0 && pairs.centers[i] < rows;
    // No early exit: the loop over a few targets is faster without a branch in it.
    for (int64_t j = i * pairs.width; j < (i + 1) * pairs.width; ++j) {
      good &= pairs.targets[j] >= 0 && pairs.targets[j] < rows;
    }
    if (good) continue;
    // Only the first targets: a pair may have thousands, and a message is read by people.
    std::string targets;
    for (int64_t j = i * pairs.width; j < (i + 1) * pairs.width && targets.size() < 60; ++j) {
      targets += (targets.empty() ? "" : ", ") + std::to_string(pairs.targets[j]);
    }
    return InvalidArgument("`centers` and `targets` must be at least 0 and below the rows, ", rows, ". Received: pair ", i,
                           " with center ", pairs.centers[i], " and targets ", targets, ".");
  }
  return Status();
}

Status CheckGroups(const Groups& groups, int64_t rows) {
  int64_t centers = 0;
  for (int64_t g = 0; g < groups.count; ++g) {
    if (groups.sizes[g] < 0) {
      return InvalidArgument("`sizes` must be at least 0. Received: ", groups.sizes[g], " for group ", g, ".");
    }
    centers += groups.sizes[g];
  }
  // After this the loop cannot run over the end of the centers.
  if (centers != groups.center_count) {
    return InvalidArgument("`sizes` must come to the number of centers, ", groups.center_count, ". Received: ", centers,
                           ".");
  }
  const int64_t center = FirstOutside(groups.centers, groups.center_count, rows);
  const int64_t target = FirstOutside(groups.targets, groups.count * groups.width, rows);
  if (center < 0 && target < 0) return Status();
  return InvalidArgument("`centers` and `targets` must be at least 0 and below the rows, ", rows, ". Received: ",
                         center < 0 ? "target " : "center ", center < 0 ? groups.targets[target] : groups.centers[center],
                         " as element ", center < 0 ? target : center, ".");
}

Result<std::unique_ptr<PairTrainer>> MakePairTrainer(const std::string& rule, CpuTarget target) {
  const PairKernels& kernels = PairKernelsFor(target);
  for (int i = 0; i < kernels.rule_count; ++i) {
    // Few rules have a loop over pairs; the others train by the ops of a graph.
    if (rule != kernels.rules[i].rule.name) continue;
    return std::unique_ptr<PairTrainer>(std::make_unique<RulePairTrainer>(kernels.rules[i]));
  }
  return InvalidArgument("`rule` must be sgd or adagrad. Received: ", rule, ".");
}

}  // namespace tfps
