#include "tfps_ops/core/negative_sampler.h"

#include <algorithm>
#include <cmath>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

std::vector<int64_t> Drawn(const NegativeSampler& sampler, const std::vector<int64_t>& positives, int64_t width) {
  std::vector<int64_t> one(positives.size() * width, -1), many(positives.size() * width, -1);
  DrawTargets(sampler, positives.data(), positives.size(), width, one.data(), InCallersThread);
  DrawTargets(sampler, positives.data(), positives.size(), width, many.data(), InThreads);
  TFPS_CHECK(one == many);
  return one;
}

TFPS_TEST(EachPlaceDrawsByTheWeightsAndNeverThePositive) {
  // Column c takes row c in all but 1 in 4 cases, and then row 0.
  const int64_t rows = 8, pairs = 20000, width = 4;
  const std::vector<int64_t> aliases(rows, static_cast<int64_t>(uint64_t{3} << 62));
  NegativeSampler sampler{aliases.data(), rows, MixedSeed(1, 2)};
  const std::vector<int64_t> drawn = Drawn(sampler, std::vector<int64_t>(pairs, 5), width);
  std::vector<double> counts(rows);
  for (int64_t i = 0; i < pairs * width; ++i) {
    if (i % width == 0) TFPS_CHECK(drawn[i] == 5);
    else ++counts[drawn[i]];
  }
  TFPS_CHECK(counts[5] == 0);
  const double total = pairs * (width - 1);
  for (int64_t r = 0; r < rows; ++r) {
    const double weight = r == 5 ? 0 : r == 0 ? 1 + 7 * 0.25 : 0.75;
    TFPS_CHECK(std::fabs(counts[r] / total - weight / (8 - 0.75)) < 0.01);
  }
}

TFPS_TEST(AllRowsAreAsLikelyWithoutWeights) {
  NegativeSampler sampler{nullptr, 5, MixedSeed(3, 4)};
  std::vector<double> counts(5);
  for (int64_t row : Drawn(sampler, std::vector<int64_t>(20000, 2), 2)) ++counts[row];
  for (int64_t r : {0, 1, 3, 4}) TFPS_CHECK(std::fabs(counts[r] / 20000 - 0.25) < 0.02);
  TFPS_CHECK(counts[2] == 20000);
}

TFPS_TEST(WhereOnlyThePositiveCanBeDrawnItsNeighbourIs) {
  const std::vector<int64_t> aliases = {1, 1};  // each column takes row 1
  NegativeSampler sampler{aliases.data(), 2, 0};
  TFPS_CHECK(Drawn(sampler, {1, 0}, 3) == (std::vector<int64_t>{1, 0, 0, 0, 1, 1}));
}

TFPS_TEST(SeedsThatDifferDrawOtherRows) {
  std::vector<std::vector<int64_t>> drawn;
  for (int64_t key : {0, 1}) {
    for (int64_t counter : {0, 1, 1 << 20}) {
      drawn.push_back(Drawn({nullptr, 1 << 20, MixedSeed(key, counter)}, std::vector<int64_t>(50, 0), 2));
    }
  }
  std::sort(drawn.begin(), drawn.end());
  TFPS_CHECK(std::unique(drawn.begin(), drawn.end()) == drawn.end());
  TFPS_CHECK(MixedSeed(1, 0) != MixedSeed(0, 1));
}

TFPS_TEST(BadAliasesAreFound) {
  const std::vector<int64_t> aliases = {int64_t{7} << 32, 1, 2};
  TFPS_CHECK(FirstBadAlias({aliases.data(), 3, 0}) == -1);
  TFPS_CHECK(FirstBadAlias({aliases.data(), 2, 0}) == -1);
  TFPS_CHECK(FirstBadAlias({aliases.data() + 1, 2, 0}) == 1);
  TFPS_CHECK(FirstBadAlias({nullptr, 2, 0}) == -1);
}

TFPS_TEST(BadPositivesAreFound) {
  const std::vector<int64_t> positives = {0, 2, 3, -1, INT64_MIN, INT64_MAX};
  const NegativeSampler sampler{nullptr, 3, 0};
  TFPS_CHECK(FirstBadPositive(sampler, positives.data(), 0) == -1);
  TFPS_CHECK(FirstBadPositive(sampler, positives.data(), 2) == -1);
  TFPS_CHECK(FirstBadPositive(sampler, positives.data(), 6) == 2);
  for (int i = 2; i < 6; ++i) TFPS_CHECK(FirstBadPositive(sampler, positives.data() + i, 1) == 0);
}

}  // namespace
}  // namespace tfps
