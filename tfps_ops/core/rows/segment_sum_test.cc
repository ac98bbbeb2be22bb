#include "tfps_ops/core/rows/segment_sum.h"

#include <cmath>
#include <cstring>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

TFPS_TEST(SumsEqualASlowTwinWithAnyNumberOfThreads) {
  Random random(5);
  for (int64_t dim : {1, 5, 16, 33}) {
    for (int64_t rows : {1, 3, 100}) {
      std::vector<int32_t> first(70), second(1);
      for (int32_t& position : first) position = random.Integer(0, rows - 1);
      const std::vector<float> a = random.Floats(70 * dim), b = random.Floats(dim);
      std::vector<float> expected(rows * dim), one(rows * dim, NAN), many(rows * dim, NAN);
      for (int64_t i = 0; i < 70 * dim; ++i) expected[first[i / dim] * dim + i % dim] += a[i];
      for (int64_t i = 0; i < dim; ++i) expected[i] += b[i];
      const std::vector<Segment> segments = {{a.data(), first.data(), 70}, {b.data(), second.data(), 1}};
      SegmentSum(segments, rows, dim, one.data(), InCallersThread);
      SegmentSum(segments, rows, dim, many.data(), InThreads);
      TFPS_CHECK(!std::memcmp(one.data(), expected.data(), rows * dim * sizeof(float)));
      TFPS_CHECK(!std::memcmp(many.data(), expected.data(), rows * dim * sizeof(float)));
    }
  }
}

TFPS_TEST(NoLookupsSumToNothing) {
  SegmentSum({}, 0, 4, nullptr, InCallersThread);
  std::vector<float> out(3 * 4, NAN);
  SegmentSum({}, 3, 4, out.data(), InThreads);  // rows that no gradient belongs to are 0, not what was there before
  for (float f : out) TFPS_CHECK(f == 0);
}

TFPS_TEST(PositionsOutsideTheRowsAreRefused) {
  const int32_t positions[] = {0, 2, 3, -1};
  TFPS_CHECK(CheckPositions({nullptr, positions, 0}, 0).ok());
  TFPS_CHECK(CheckPositions({nullptr, positions, 2}, 3).ok());
  TFPS_CHECK(CheckPositions({nullptr, positions, 4}, 3).message() ==
             "rows must be at least 0 and below num_rows, 3. Received: 3 as element 2.");
  TFPS_CHECK(CheckPositions({nullptr, positions, 4}, 4).message() ==
             "rows must be at least 0 and below num_rows, 4. Received: -1 as element 3.");
  TFPS_CHECK(!CheckPositions({nullptr, positions, 1}, 0).ok());
}

}  // namespace
}  // namespace tfps
