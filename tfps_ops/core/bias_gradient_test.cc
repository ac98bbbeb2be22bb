// The gradient of relu(x + bias) in bfloat16 against its definition, for every CPU target, odd widths and any threads.
#include "tfps_ops/core/bias_gradient.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

float Widen(Bfloat16Bits bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

std::vector<Bfloat16Bits> Narrow(const std::vector<float>& values) {
  std::vector<Bfloat16Bits> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = RoundToBfloat16(values[i]);
  return bits;
}

struct Found {
  std::vector<Bfloat16Bits> gradient, bias_gradient;
};

Found Compute(const std::vector<Bfloat16Bits>& upstream, const std::vector<Bfloat16Bits>& results, int64_t columns,
              CpuTarget target, const ParallelFor& parallel_for) {
  Found found{std::vector<Bfloat16Bits>(upstream.size(), 0x1234), std::vector<Bfloat16Bits>(columns, 0x1234)};
  const int64_t rows = columns == 0 ? 0 : static_cast<int64_t>(upstream.size()) / columns;
  ComputeReluBiasGradient({upstream.data(), results.data(), rows, columns, found.gradient.data(),
                           found.bias_gradient.data()}, target, parallel_for);
  return found;
}

TFPS_TEST(ReluBiasGradientIsItsDefinitionForEveryTarget) {
  for (CpuTarget target : SupportedCpuTargets()) {
    for (int64_t columns : {1, 7, 16, 31, 64, 65, 400}) {
      for (int64_t rows : {0, 1, 3, 512}) {
        Random random(static_cast<int>(columns + rows));
        const auto upstream = Narrow(random.Floats(rows * columns)), results = Narrow(random.Floats(rows * columns));
        std::vector<Bfloat16Bits> gradient(rows * columns), sums(columns);
        for (int64_t j = 0; j < columns; ++j) {
          float sum = 0;
          for (int64_t i = j; i < rows * columns; i += columns) {
            gradient[i] = Widen(results[i]) > 0 ? upstream[i] : 0;
            sum += Widen(gradient[i]);
          }
          sums[j] = RoundToBfloat16(sum);
        }
        const Found found = Compute(upstream, results, columns, target, InCallersThread);
        TFPS_CHECK(found.gradient == gradient && found.bias_gradient == sums);
        // The same bits however many threads share the columns.
        const Found split = Compute(upstream, results, columns, target, InThreads);
        TFPS_CHECK(split.gradient == gradient && split.bias_gradient == sums);
      }
    }
  }
}

TFPS_TEST(ReluBiasGradientPassesNoFiniteGradientWhereTheResultIsNotAboveZero) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const float smallest = Widen(1);
  const auto results = Narrow({0, -0.0f, nan, -nan, -1, infinity, smallest, -infinity});
  const auto upstream = Narrow(std::vector<float>(8, 2));
  for (CpuTarget target : SupportedCpuTargets()) {
    TFPS_CHECK(Compute(upstream, results, 8, target, InCallersThread).gradient ==
               Narrow({0, 0, 0, 0, 0, 2, 2, 0}));
    // What is not finite is not hidden by a result of 0.
    for (float bad : {nan, infinity, -infinity}) {
      const Found found = Compute(Narrow({bad, 1}), Narrow({0, 1}), 1, target, InCallersThread);
      TFPS_CHECK(std::isnan(Widen(found.gradient[0])) && std::isnan(Widen(found.bias_gradient[0])));
    }
  }
}

TFPS_TEST(ManyRowsAreSummedBeyondThePrecisionOfBfloat16) {
  // In bfloat16 the sum of ones would end at 256: 256 + 1 is rounded to 256.
  const auto ones = Narrow(std::vector<float>(4096, 1));
  for (CpuTarget target : SupportedCpuTargets()) {
    TFPS_CHECK(Widen(Compute(ones, ones, 1, target, InCallersThread).bias_gradient[0]) == 4096);
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
