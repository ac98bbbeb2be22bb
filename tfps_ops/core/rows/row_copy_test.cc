#include "tfps_ops/core/rows/row_copy.h"

#include <cmath>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

TFPS_TEST(CopiedRowsEqualTheirMatrix) {
  Random random(6);
  // Widths around a cache line and around powers of two, where the prefetch changes; none of them may read outside.
  for (int64_t dim : {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 40, 100}) {
    for (int64_t count : {0, 1, 7, 8, 9, 100}) {
      std::vector<float> matrix = random.Floats(30 * dim);
      matrix.shrink_to_fit();
      std::vector<int64_t> rows(count);
      for (int64_t& row : rows) row = random.Integer(0, 29);
      std::vector<float> one(count * dim, NAN), many(count * dim, NAN);
      CopyMatrixRows(matrix.data(), rows.data(), count, dim, one.data(), InCallersThread);
      CopyMatrixRows(matrix.data(), rows.data(), count, dim, many.data(), InThreads);
      for (int64_t i = 0; i < count * dim; ++i) TFPS_CHECK(one[i] == matrix[rows[i / dim] * dim + i % dim]);
      TFPS_CHECK(one == many);
    }
  }
}

TFPS_TEST(FirstAndLastRowsAreCopied) {
  const std::vector<float> matrix = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> rows = {1, 0, 1};
  std::vector<float> out(9);
  CopyMatrixRows(matrix.data(), rows.data(), 3, 3, out.data(), InCallersThread);
  TFPS_CHECK(out == (std::vector<float>{4, 5, 6, 1, 2, 3, 4, 5, 6}));
}

TFPS_TEST(NumbersThatAreNoneAreCopiedAsTheyAre) {
  const std::vector<float> matrix = {NAN, INFINITY, -0.0f};
  const int64_t row = 0;
  float out[3];
  CopyMatrixRows(matrix.data(), &row, 1, 3, out, InCallersThread);
  TFPS_CHECK(std::isnan(out[0]) && std::isinf(out[1]) && std::signbit(out[2]));
}

}  // namespace
}  // namespace tfps
