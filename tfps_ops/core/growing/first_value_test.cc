#include "tfps_ops/core/growing/first_value.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

// tf.raw_ops.StatelessRandomGetKeyCounter(seed=[1, 2]).
FirstValue OfSeed12(FirstValue::Kind kind, float a, float b) {
  return {kind, a, b, 10413732777507651514u, {0, 17830669156045600267u}};
}

std::vector<float> Row(const FirstValue& first, int64_t key, int64_t dim) {
  std::vector<float> row(dim);
  WriteFirstValue(first, key, dim, row.data());
  return row;
}

TFPS_TEST(UniformRowsAreTheBitsOfTensorFlow) {
  // tf.random.stateless_uniform([3, 3], seed=[1, 2]): a row of three begins in the middle of a block of four.
  const std::vector<std::vector<float>> expected = {{0.8440604209899902f, 0.19204533100128174f, 0.9962232112884521f},
                                                    {0.16038739681243896f, 0.27199018001556396f, 0.6493459939956665f},
                                                    {0.10694444179534912f, 0.06516242027282715f, 0.4393514394760132f}};
  const FirstValue first = OfSeed12(FirstValue::Kind::kUniform, 0, 1);
  for (int64_t key = 0; key < 3; ++key) TFPS_CHECK(Row(first, key, 3) == expected[key]);
  const FirstValue scaled = OfSeed12(FirstValue::Kind::kUniform, -0.5f, 1.5f);
  for (int64_t j = 0; j < 3; ++j) TFPS_CHECK(Row(scaled, 1, 3)[j] == expected[1][j] * 2.0f - 0.5f);
}

TFPS_TEST(NormalRowsAreThoseOfTensorFlow) {
  const std::vector<std::vector<float>> expected = {{0.544110119342804f, 0.20738030970096588f, 0.0735643208026886f},
                                                    {0.04643455147743225f, -1.301589846611023f, -0.9538565278053284f},
                                                    {0.8417285680770874f, 1.9396867752075195f, 0.6512577533721924f}};
  const FirstValue first = OfSeed12(FirstValue::Kind::kNormal, 2, 3);
  for (int64_t key = 0; key < 3; ++key) {
    for (int64_t j = 0; j < 3; ++j) TFPS_CHECK(std::fabs(Row(first, key, 3)[j] - (expected[key][j] * 3 + 2)) < 1e-5f);
  }
}

TFPS_TEST(RowsLieSideBySideInOneStreamWhateverTheirWidth) {
  // Elements 12 to 23 of the stream, as one row, as two, as three and so on.
  for (auto kind : {FirstValue::Kind::kUniform, FirstValue::Kind::kNormal}) {
    const FirstValue first = OfSeed12(kind, 0, 1);
    const std::vector<float> whole = Row(first, 1, 12);
    for (int64_t dim : {1, 2, 3, 4, 6}) {
      for (int64_t at = 0; at < 12; at += dim) {
        TFPS_CHECK(Row(first, (12 + at) / dim, dim) == std::vector<float>(whole.begin() + at, whole.begin() + at + dim));
      }
    }
  }
}

TFPS_TEST(NegativeKeysAreLargeUnsignedOnes) {
  // The key -1 is 2^64 - 1, whose row of 8 begins with block (2^64 - 1) * 8 / 4 = 2^64 + (2^64 - 2): both halves of the counter
  // move.
  FirstValue first = OfSeed12(FirstValue::Kind::kUniform, 0, 1), moved = first;
  moved.counter[0] = UINT64_MAX - 1;
  moved.counter[1] += 1;
  TFPS_CHECK(Row(first, -1, 8) == Row(moved, 0, 8));
  TFPS_CHECK(Row(first, -1, 8) != Row(first, 0, 8));
  TFPS_CHECK(Row(first, INT64_MIN, 8) != Row(first, 0, 8));
}

TFPS_TEST(TruncatedRowsHaveTheirMomentsAndAStreamEach) {
  const FirstValue first = OfSeed12(FirstValue::Kind::kTruncatedNormal, 1, 0.5f);
  double sum = 0, squares = 0;
  constexpr int64_t kKeys = 5000, kDim = 7;
  for (int64_t key = 0; key < kKeys; ++key) {
    for (float f : Row(first, key - kKeys / 2, kDim)) {
      TFPS_CHECK(f > 0 && f < 2);  // two standard deviations
      sum += f;
      squares += (f - 1.0) * (f - 1.0);
    }
  }
  constexpr double kCount = kKeys * kDim;
  // The deviation of a normal variable cut at two is 0.8796; over five standard errors are allowed.
  TFPS_CHECK(std::fabs(sum / kCount - 1) < 0.013);
  TFPS_CHECK(std::fabs(std::sqrt(squares / kCount) - 0.5 * 0.8796) < 0.008);
  const std::vector<float> longer = Row(first, 3, 9), row = Row(first, 3, 7);
  TFPS_CHECK(row == std::vector<float>(longer.begin(), longer.begin() + 7));
  TFPS_CHECK(Row(first, 4, 7) != row);
}

TFPS_TEST(ConstantsAndMeans) {
  TFPS_CHECK(Row({FirstValue::Kind::kConstant, 0.25f, 9, 1, {2, 3}}, 5, 3) == std::vector<float>(3, 0.25f));
  TFPS_CHECK(MeanFirstValue(OfSeed12(FirstValue::Kind::kUniform, -1, 3)) == 1);
  TFPS_CHECK(MeanFirstValue(OfSeed12(FirstValue::Kind::kNormal, 2, 3)) == 2);
}

}  // namespace
}  // namespace tfps
