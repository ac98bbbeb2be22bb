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

TFPS_TEST(AliasesBeyondTheRowsAreRefused) {
  const std::vector<int64_t> aliases = {int64_t{7} << 32, 1, 2};
  TFPS_CHECK(CheckAliases({aliases.data(), 3, 0}).ok());
  TFPS_CHECK(CheckAliases({aliases.data(), 2, 0}).ok());
  TFPS_CHECK(CheckAliases({nullptr, 2, 0}).ok());
  const Status status = CheckAliases({aliases.data() + 1, 2, 0});
  TFPS_CHECK(status.code() == StatusCode::kInvalidArgument);
  TFPS_CHECK(status.message() == "`aliases` must hold rows below 2 in its low 32 bits. Received: 2 in column 1.");
}

TFPS_TEST(PositivesOutsideTheRowsAreRefused) {
  const std::vector<int64_t> positives = {0, 2, 3, -1, INT64_MIN, INT64_MAX};
  const NegativeSampler sampler{nullptr, 3, 0};
  TFPS_CHECK(CheckPositives(sampler, positives.data(), 0).ok());
  TFPS_CHECK(CheckPositives(sampler, positives.data(), 2).ok());
  TFPS_CHECK(CheckPositives(sampler, positives.data(), 6).message() ==
             "`positives` must be at least 0 and below the rows, 3. Received: 3 as element 2.");
  for (int i = 2; i < 6; ++i) TFPS_CHECK(!CheckPositives(sampler, positives.data() + i, 1).ok());
}

// The definition, one place after the other, with the arithmetic of the header in 128 bits.
std::vector<int64_t> Slow(const NegativeSampler& sampler, const std::vector<int64_t>& positives, int64_t width) {
  const auto mix = [](uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  std::vector<int64_t> targets;
  for (size_t i = 0; i < positives.size(); ++i) {
    targets.push_back(positives[i]);
    for (int64_t j = 1; j < width; ++j) {
      int64_t drawn = positives[i];
      for (int attempt = 0; attempt < 4 && drawn == positives[i]; ++attempt) {
        const uint64_t random = mix(sampler.seed + 0x9e3779b97f4a7c15u * ((i * width + j) * 4 + attempt));
        drawn = static_cast<int64_t>((static_cast<unsigned __int128>(random >> 32) * sampler.rows) >> 32);
        if (sampler.aliases == nullptr) continue;
        const uint64_t alias = static_cast<uint64_t>(sampler.aliases[drawn]);
        if ((random & 0xffffffffu) >= alias >> 32) drawn = static_cast<int64_t>(alias & 0xffffffffu);
      }
      targets.push_back(drawn == positives[i] ? (positives[i] + 1) % sampler.rows : drawn);
    }
  }
  return targets;
}

TFPS_TEST(DrawnTargetsEqualTheDefinition) {
  Random random(41);
  for (int seed = 0; seed < 60; ++seed) {
    const int64_t rows = random.Integer(2, seed % 2 ? 5 : 100000), width = random.Integer(1, 8);
    std::vector<int64_t> aliases(rows), positives(random.Integer(0, 30));
    for (int64_t& alias : aliases) {
      alias = static_cast<int64_t>(static_cast<uint64_t>(random.Integer(0, UINT32_MAX)) << 32) + random.Integer(0, rows - 1);
    }
    for (int64_t& positive : positives) positive = random.Integer(0, rows - 1);
    const NegativeSampler weighted{aliases.data(), rows, MixedSeed(seed, 1)}, even{nullptr, rows, MixedSeed(seed, 2)};
    TFPS_CHECK(CheckAliases(weighted).ok() && CheckPositives(weighted, positives.data(), positives.size()).ok());
    TFPS_CHECK(Drawn(weighted, positives, width) == Slow(weighted, positives, width));
    TFPS_CHECK(Drawn(even, positives, width) == Slow(even, positives, width));
  }
}

TFPS_TEST(TheLargestTableDrawsWithinItsRows) {
  const int64_t rows = int64_t{1} << 31;
  const NegativeSampler sampler{nullptr, rows, MixedSeed(5, 6)};
  int64_t largest = 0;
  for (int64_t row : Drawn(sampler, std::vector<int64_t>(2000, rows - 1), 3)) {
    TFPS_CHECK(row >= 0 && row < rows);
    largest = std::max(largest, row == rows - 1 ? 0 : row);
  }
  TFPS_CHECK(largest > rows / 10 * 9);  // the upper end is drawn from, too
}

TFPS_TEST(ADrawDoesNotDependOnTheOthers) {
  // Each place has its own random number, so the first targets of a long batch are those of a short one.
  const NegativeSampler sampler{nullptr, 1000, MixedSeed(7, 8)};
  const std::vector<int64_t> few = Drawn(sampler, std::vector<int64_t>(10, 3), 4);
  const std::vector<int64_t> many = Drawn(sampler, std::vector<int64_t>(100, 3), 4);
  TFPS_CHECK(std::equal(few.begin(), few.end(), many.begin()));
}

}  // namespace
}  // namespace tfps
