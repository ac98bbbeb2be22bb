#include "tfps_ops/core/pair_trainer.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "tfps_ops/core/pair_kernels.h"

namespace tfps {
namespace {

constexpr size_t kCacheLine = kFloatsALine * sizeof(float);
constexpr size_t kHugePage = size_t{2} << 20;

// Memory for floats, in whole cache lines; much of it on large pages where the system has them: rows are read in no
// order, and on small pages each read would also miss the buffer of addresses. The buffer holds the addresses of a little
// anyway, and a large page is cleared whole, whatever is used of it.
class LargeBuffer {
 public:
  explicit LargeBuffer(int64_t floats) {
    const size_t needed = floats * sizeof(float), page = needed < kHugePage / 2 ? kCacheLine : kHugePage;
    const size_t bytes = (needed / page + 1) * page;
    data_ = static_cast<float*>(std::aligned_alloc(page, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    if (page == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);  // where it fails it is only slower
#endif
  }
  ~LargeBuffer() { std::free(data_); }
  LargeBuffer(const LargeBuffer&) = delete;
  LargeBuffer& operator=(const LargeBuffer&) = delete;
  float* data() { return data_; }

 private:
  float* data_;
};

// Each row with `filler` behind it, up to the next one.
void CopyPadded(const float* from, int64_t rows, int64_t dim, float filler, int64_t stride, float* to) {
  for (int64_t r = 0; r < rows; ++r, from += dim, to += stride) {
    std::memcpy(to, from, dim * sizeof(float));
    for (int64_t j = dim; j < stride; ++j) to[j] = filler;
  }
}

void Subtract(const float* after, int64_t stride, const float* before, int64_t rows, int64_t dim, float* deltas) {
  for (int64_t r = 0; r < rows; ++r, after += stride, before += dim, deltas += dim) {
    for (int64_t j = 0; j < dim; ++j) deltas[j] = after[j] - before[j];
  }
}

// Trains pairs by the loop of one rule.
class RulePairTrainer : public PairTrainer {
 public:
  explicit RulePairTrainer(const PairKernel& kernel) : kernel_(kernel) {}

  int slots() const override { return kernel_.rule.slot_count(); }

  int hyperparameters() const override { return kernel_.rule.hyperparameter_count; }

  double Train(const float* hyperparameters, const Pairs& pairs, const TrainedRows& rows) const override {
    PairBlock block;
    block.pairs = pairs;
    block.stride = (rows.dim + kFloatsALine - 1) / kFloatsALine * kFloatsALine;
    LargeBuffer buffer((rows.rows * (1 + slots()) + 3) * block.stride);
    for (int i = 0; i <= slots(); ++i) {
      block.rows[i] = buffer.data() + i * rows.rows * block.stride;
      CopyPadded(rows.before[i], rows.rows, rows.dim, i == 0 ? 0 : 1, block.stride, block.rows[i]);
    }
    block.scratch = buffer.data() + (1 + slots()) * rows.rows * block.stride;
    const double loss = kernel_.train(hyperparameters, block);
    for (int i = 0; i <= slots(); ++i) {
      Subtract(block.rows[i], block.stride, rows.before[i], rows.rows, rows.dim, rows.deltas[i]);
    }
    return loss;
  }

 private:
  const PairKernel& kernel_;
};

}  // namespace

int64_t FirstBadPair(const Pairs& pairs, int64_t rows) {
  for (int64_t i = 0; i < pairs.count; ++i) {
    bool good = pairs.centers[i] >= 0 && pairs.centers[i] < rows;
    for (int64_t j = i * pairs.width; j < (i + 1) * pairs.width; ++j) {
      good &= pairs.targets[j] >= 0 && pairs.targets[j] < rows;
    }
    if (!good) return i;
  }
  return -1;
}

std::unique_ptr<PairTrainer> MakePairTrainer(const std::string& rule, CpuTarget target) {
  const PairKernels& kernels = PairKernelsFor(target);
  for (int i = 0; i < kernels.rule_count; ++i) {
    if (rule == kernels.rules[i].rule.name) return std::make_unique<RulePairTrainer>(kernels.rules[i]);
  }
  return nullptr;
}

}  // namespace tfps
