#include "tfps_ops/core/segment_sum.h"

#include <cmath>
#include <cstring>

#include "tfps_ops/core/row_copy.h"
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

TFPS_TEST(AnEmptySumAndAPositionOutside) {
  SegmentSum({}, 0, 4, nullptr, InCallersThread);
  const int32_t positions[] = {0, 2, 3, -1};
  TFPS_CHECK(FirstPositionOutside({nullptr, positions, 2}, 3) == -1);
  TFPS_CHECK(FirstPositionOutside({nullptr, positions, 4}, 3) == 2);
  TFPS_CHECK(FirstPositionOutside({nullptr, positions, 4}, 4) == 3);
}

TFPS_TEST(CopiedRowsEqualTheirTable) {
  Random random(6);
  for (int64_t dim : {1, 7, 40}) {
    const std::vector<float> table = random.Floats(30 * dim);
    std::vector<int64_t> rows(100);
    for (int64_t& row : rows) row = random.Integer(0, 29);
    std::vector<float> out(100 * dim);
    CopyRows(table.data(), {rows.data(), 100, 0}, dim, out.data(), InThreads);
    for (int64_t i = 0; i < 100 * dim; ++i) TFPS_CHECK(out[i] == table[rows[i / dim] * dim + i % dim]);
  }
}

}  // namespace
}  // namespace tfps
