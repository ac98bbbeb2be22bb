#include "tfps_ops/core/cache/frequency_sketch.h"

#include <map>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

uint64_t RandomWord(Random* random) { return static_cast<uint64_t>(random->Integer(INT64_MIN, INT64_MAX)); }

TFPS_TEST(EstimatesAreNeverTooSmallAndSeldomTooLarge) {
  Random random(1);
  FrequencySketch sketch(1 << 14);
  std::map<uint64_t, int> counts;
  std::vector<uint64_t> words;
  for (int i = 0; i < 2000; ++i) words.push_back(RandomWord(&random));
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t word = words[random.Integer(0, 1999)];
    TFPS_CHECK(sketch.Increment(word) >= ++counts[word]);
  }
  int too_large = 0;
  for (const auto& [word, count] : counts) {
    TFPS_CHECK(sketch.Estimate(word) >= count);
    too_large += sketch.Estimate(word) > count + 1;
  }
  TFPS_CHECK(too_large < 40);  // 2 % of the keys
}

TFPS_TEST(CountsStayAtTheirLimitAndAreHalved) {
  FrequencySketch sketch(1);
  const uint64_t word = 0x0123456789abcdef;
  for (int i = 0; i < 300; ++i) sketch.Increment(word);
  TFPS_CHECK(sketch.Estimate(word) == FrequencySketch::kMaxCount);
  TFPS_CHECK(sketch.Raise(word, 3) == FrequencySketch::kMaxCount);
  sketch.Halve();
  TFPS_CHECK(sketch.Estimate(word) == 127);
  for (int i = 0; i < 7; ++i) sketch.Halve();
  TFPS_CHECK(sketch.Estimate(word) == 0);
}

}  // namespace
}  // namespace tfps
