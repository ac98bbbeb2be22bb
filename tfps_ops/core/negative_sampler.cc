// No state: the random bits of a place are a hash of the seed and the place (as in a counter-based generator), so that threads
// need not take turns and a draw can be repeated anywhere.
#include "tfps_ops/core/negative_sampler.h"

namespace tfps {
namespace {

// 2^64 divided by the golden ratio: multiples of it are spread evenly over 64 bits.
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
// With 4 attempts a row that has half of all draws is replaced by its neighbour once in 16; rarer rows practically never.
constexpr int kAttempts = 4;
// A hash of the place and, mostly, the fetch from the alias table.
constexpr int64_t kNanosecondsADraw = 10;

// The finalizer of splitmix64 (Steele, Lea and Flood 2014): 64 bits that look random for a number that does not.
inline uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// One row for 64 random bits: the high 32 choose the column, the low 32 whether its alias is taken.
inline int64_t Row(const NegativeSampler& sampler, uint64_t random) {
  // A product and a shift in place of a remainder: spread as evenly, without a division.
  const int64_t column = static_cast<int64_t>(((random >> 32) * static_cast<uint64_t>(sampler.rows)) >> 32);
  if (sampler.aliases == nullptr) return column;
  const uint64_t alias = static_cast<uint64_t>(sampler.aliases[column]);
  return (random & 0xffffffffu) < alias >> 32 ? column : static_cast<int64_t>(alias & 0xffffffffu);
}

// The row for one place of the result. `place` is counted over the whole batch, so each has random bits of its own and any
// thread may draw it.
inline int64_t Draw(const NegativeSampler& sampler, uint64_t place, int64_t positive) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    // Each attempt at each place has a number of its own, so draws never repeat.
    const int64_t row = Row(sampler, Mix(sampler.seed + kGolden * (place * kAttempts + attempt)));
    if (row != positive) return row;
  }
  // Two rows at least, so the neighbour is another row.
  return (positive + 1) % sampler.rows;
}

}  // namespace

Status CheckAliases(const NegativeSampler& sampler) {
  for (int64_t c = 0; sampler.aliases != nullptr && c < sampler.rows; ++c) {
    // The high 32 bits may be anything: they are a probability.
    const int64_t row = sampler.aliases[c] & 0xffffffff;
    if (row >= sampler.rows) {
      return InvalidArgument("`aliases` must hold rows below ", sampler.rows, " in its low 32 bits. Received: ", row,
                             " in column ", c, ".");
    }
  }
  return Status();
}

Status CheckPositives(const NegativeSampler& sampler, const int64_t* positives, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (positives[i] < 0 || positives[i] >= sampler.rows) {
      return InvalidArgument("`positives` must be at least 0 and below the rows, ", sampler.rows, ". Received: ",
                             positives[i], " as element ", i, ".");
    }
  }
  return Status();
}

uint64_t MixedSeed(int64_t key, int64_t counter) {
  // Mixed twice: seeds that differ in one bit of either number give streams that have nothing in common.
  return Mix(Mix(static_cast<uint64_t>(key) + kGolden) + kGolden * static_cast<uint64_t>(counter));
}

void DrawTargets(const NegativeSampler& sampler, const int64_t* positives, int64_t count, int64_t width,
                 int64_t* targets, const ParallelFor& parallel) {
  parallel(count, width * kNanosecondsADraw, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // The positive comes first, as pair_trainer.h has it.
      targets[i * width] = positives[i];
      for (int64_t j = 1; j < width; ++j) {
        targets[i * width + j] = Draw(sampler, i * width + j, positives[i]);
      }
    }
  });
}

}  // namespace tfps
