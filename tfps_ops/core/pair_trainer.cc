// Rows are copied to whole cache lines, trained there, and the difference is returned. The copy is made
// once a window, and saves the loops of every pair all partial vectors.
#include "tfps_ops/core/pair_trainer.h"

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

// Trains pairs by the loop of one rule.
class RulePairTrainer : public PairTrainer {
 public:
  // Of a static table, so it lives as long as the program.
  explicit RulePairTrainer(const PairKernel& kernel) : kernel_(kernel) {}

  int slots() const override { return kernel_.rule.slot_count(); }

  int hyperparameters() const override { return kernel_.rule.hyperparameter_count; }

  // Copy in, train, copy the differences out.
  Result<double> Train(const float* hyperparameters, const Pairs& pairs, const TrainedRows& rows) const override {
    PairBlock block;
    block.pairs = pairs;
    // Whole cache lines: the loops then have no partial vectors, and a row never shares a line with its neighbour.
    block.stride = (rows.dim + kFloatsALine - 1) / kFloatsALine * kFloatsALine;
    // The rows, the slots, and 3 rows of scratch.
    LargeBuffer buffer((rows.rows * (1 + slots()) + 3) * block.stride);
    if (buffer.data() == nullptr) {
      return ResourceExhausted("no memory for a copy of ", rows.rows, " rows of ", rows.dim, " floats and of their ",
                               slots(), " slots.");
    }
    for (int i = 0; i <= slots(); ++i) {
      block.rows[i] = buffer.data() + i * rows.rows * block.stride;
      // Padding of a slot is 1: an update divides by its root, and 0 / 0 would be slow and spread.
      CopyPadded(rows.before[i], rows.rows, rows.dim, i == 0 ? 0 : 1, block.stride, block.rows[i]);
    }
    // Behind the rows and slots; the loops for wide rows keep a pair there.
    block.scratch = buffer.data() + (1 + slots()) * rows.rows * block.stride;
    // All the time is spent here.
    const double loss = kernel_.train(hyperparameters, block);
    for (int i = 0; i <= slots(); ++i) {
      // Slots have deltas too: the accumulators of several workers add up.
      Subtract(block.rows[i], block.stride, rows.before[i], rows.rows, rows.dim, rows.deltas[i]);
    }
    return loss;
  }

 private:
  const PairKernel& kernel_;
};

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
