// The gradient of relu(x + bias) against its definition, for every CPU target, odd widths and any threads.
#include "tfps_ops/core/bias_gradient.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

template <typename Bits>
float Widen(Bits bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << (32 - 8 * sizeof(Bits));
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

template <typename Bits>
std::vector<Bits> Narrow(const std::vector<float>& values) {
  std::vector<Bits> narrow(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if constexpr (sizeof(Bits) == sizeof(float)) {
      std::memcpy(&narrow[i], &values[i], sizeof(float));
    } else {
      narrow[i] = RoundToBfloat16(values[i]);
    }
  }
  return narrow;
}

template <typename Bits>
struct Found {
  std::vector<Bits> gradient, bias_gradient;
};

template <typename Bits>
Found<Bits> Compute(const std::vector<Bits>& upstream, const std::vector<Bits>& results, int64_t columns, CpuTarget target,
                 const ParallelFor& parallel_for) {
  Found<Bits> found{std::vector<Bits>(upstream.size(), 0x1234), std::vector<Bits>(columns, 0x1234)};
  const int64_t rows = columns == 0 ? 0 : static_cast<int64_t>(upstream.size()) / columns;
  ComputeReluBiasGradient(ReluBiasGradient<Bits>{upstream.data(), results.data(), rows, columns, found.gradient.data(),
                                              found.bias_gradient.data()}, target, parallel_for);
  return found;
}

template <typename Bits>
void CheckAgainstDefinition() {
  for (CpuTarget target : SupportedCpuTargets()) {
    for (int64_t columns : {1, 7, 16, 31, 64, 65, 400}) {
      for (int64_t rows : {0, 1, 3, 512}) {
        Random random(static_cast<int>(columns + rows));
        const auto upstream = Narrow<Bits>(random.Floats(rows * columns)), results = Narrow<Bits>(random.Floats(rows * columns));
        std::vector<Bits> gradient(rows * columns);
        std::vector<float> wide(columns);
        for (int64_t j = 0; j < columns; ++j) {
          float block = 0;
          for (int64_t i = 0; i < rows; ++i) {
            const int64_t at = i * columns + j;
            gradient[at] = Widen(results[at]) > 0 ? upstream[at] : Bits(0);
            block += Widen(gradient[at]);
            if ((i + 1) % kRowsABlock == 0 || i + 1 == rows) {
              wide[j] += block;
              block = 0;
            }
          }
        }
        const std::vector<Bits> sums = Narrow<Bits>(wide);
        const Found<Bits> found = Compute(upstream, results, columns, target, InCallersThread);
        TFPS_CHECK(found.gradient == gradient && found.bias_gradient == sums);
        // The same bits however many threads share the columns.
        const Found<Bits> split = Compute(upstream, results, columns, target, InThreads);
        TFPS_CHECK(split.gradient == gradient && split.bias_gradient == sums);
      }
    }
  }
}

TFPS_TEST(ReluBiasGradientIsItsDefinitionForEveryTarget) {
  CheckAgainstDefinition<Float32Bits>();
  CheckAgainstDefinition<Bfloat16Bits>();
}

template <typename Bits>
void CheckWhatIsNotAboveZero(float smallest) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const auto results = Narrow<Bits>({0, -0.0f, nan, -nan, -1, infinity, smallest, -infinity});
  const auto upstream = Narrow<Bits>(std::vector<float>(8, 2));
  for (CpuTarget target : SupportedCpuTargets()) {
    TFPS_CHECK(Compute(upstream, results, 8, target, InCallersThread).gradient == Narrow<Bits>({0, 0, 0, 0, 0, 2, 2, 0}));
    // What is not finite is not hidden by a result of 0.
    for (float bad : {nan, infinity, -infinity}) {
      const auto found = Compute(Narrow<Bits>({bad, 1}), Narrow<Bits>({0, 1}), 1, target, InCallersThread);
      TFPS_CHECK(std::isnan(Widen(found.gradient[0])) && std::isnan(Widen(found.bias_gradient[0])));
    }
  }
}

TFPS_TEST(ReluBiasGradientPassesNoFiniteGradientWhereTheResultIsNotAboveZero) {
  CheckWhatIsNotAboveZero<Float32Bits>(std::numeric_limits<float>::denorm_min());
  CheckWhatIsNotAboveZero<Bfloat16Bits>(Widen(Bfloat16Bits{1}));
}

TFPS_TEST(ManyRowsAreSummedBeyondThePrecisionOfBfloat16) {
  // In bfloat16 the sum of ones would end at 256: 256 + 1 is rounded to 256.
  const auto ones = Narrow<Bfloat16Bits>(std::vector<float>(4096, 1));
  for (CpuTarget target : SupportedCpuTargets()) {
    TFPS_CHECK(Widen(Compute(ones, ones, 1, target, InCallersThread).bias_gradient[0]) == 4096);
  }
}

TFPS_TEST(ManyRowsAreSummedInBlocks) {
  // One by one, the sum would stay at 2^24: adding 1 does not change it.
  const auto ones = Narrow<Float32Bits>(std::vector<float>((1 << 24) + (1 << 20), 1));
  for (CpuTarget target : SupportedCpuTargets()) {
    TFPS_CHECK(Widen(Compute(ones, ones, 1, target, InCallersThread).bias_gradient[0]) == (1 << 24) + (1 << 20));
  }
}

TFPS_TEST(RoundsToTheNearestBfloat16) {
  const auto from_bits = [](uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  };
  TFPS_CHECK(RoundToBfloat16(from_bits(0x3f808000)) == 0x3f80 && RoundToBfloat16(from_bits(0x3f818000)) == 0x3f82);
  TFPS_CHECK(RoundToBfloat16(from_bits(0x3f808001)) == 0x3f81 && RoundToBfloat16(from_bits(0xbf807fff)) == 0xbf80);
  TFPS_CHECK(RoundToBfloat16(from_bits(0x7f7fffff)) == 0x7f80);  // too large for a bfloat16: infinity
  TFPS_CHECK(std::isnan(Widen(RoundToBfloat16(from_bits(0x7fffffff)))));
}

}  // namespace
}  // namespace tfps
