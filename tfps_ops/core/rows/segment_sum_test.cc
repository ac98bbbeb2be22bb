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

TFPS_TEST(GradientsAreAddedInTheOrderGiven) {
  // Floats are not associative: 1e8 + 1 - 1e8 is 0 in one order and 1 in another. Any number of threads keeps the order.
  const std::vector<int32_t> positions = {2, 2, 2};
  const std::vector<float> up = {1e8f, 1.0f, -1e8f}, down = {1e8f, -1e8f, 1.0f};
  for (const ParallelFor& parallel : {ParallelFor(InCallersThread), ParallelFor(InThreads)}) {
    std::vector<float> out(4);
    SegmentSum({{up.data(), positions.data(), 3}}, 4, 1, out.data(), parallel);
    TFPS_CHECK(out[2] == 0.0f);
    SegmentSum({{down.data(), positions.data(), 3}}, 4, 1, out.data(), parallel);
    TFPS_CHECK(out[2] == 1.0f);
  }
}

TFPS_TEST(ManyLookupsSumToTheirSum) {
  Random random(9);
  for (int i = 0; i < 50; ++i) {
    const int64_t dim = random.Integer(1, 40), rows = random.Integer(1, 50);
    std::vector<std::vector<float>> gradients;
    std::vector<std::vector<int32_t>> positions;
    std::vector<Segment> segments;
    std::vector<double> expected(rows * dim);
    for (int64_t s = random.Integer(0, 5); s > 0; --s) {
      positions.emplace_back(random.Integer(0, 60));
      for (int32_t& position : positions.back()) position = random.Integer(0, rows - 1);
      gradients.push_back(random.Floats(positions.back().size() * dim));
    }
    for (size_t s = 0; s < gradients.size(); ++s) {
      segments.push_back({gradients[s].data(), positions[s].data(), static_cast<int64_t>(positions[s].size())});
      for (size_t j = 0; j < gradients[s].size(); ++j) expected[positions[s][j / dim] * dim + j % dim] += gradients[s][j];
    }
    std::vector<float> out(rows * dim, NAN);
    SegmentSum(segments, rows, dim, out.data(), InThreads);
    for (int64_t j = 0; j < rows * dim; ++j) TFPS_CHECK(std::fabs(out[j] - expected[j]) < 1e-4);
  }
}

TFPS_TEST(MeasuresOfRowsThatRepeatEqualASlowTwin) {
  Random random(11);
  for (int64_t dim : {1, 5, 16, 33}) {
    for (int64_t rows : {1, 7, 100}) {
      std::vector<int32_t> first(60), second(9);
      for (int32_t& position : first) position = random.Integer(0, rows - 1);
      for (int32_t& position : second) position = random.Integer(0, rows - 1);
      const std::vector<float> a = random.Floats(60 * dim), b = random.Floats(9 * dim);
      const std::vector<Segment> segments = {{a.data(), first.data(), 60}, {b.data(), second.data(), 9}};
      const Repeats repeats = FindRepeats(segments, rows);
      for (Measure measure : {Measure::kSquare, Measure::kMagnitude}) {
        std::vector<float> one(repeats.count * dim, NAN), many(repeats.count * dim, NAN);
        SegmentSumMeasures(segments, repeats, measure, dim, one.data(), InCallersThread);
        SegmentSumMeasures(segments, repeats, measure, dim, many.data(), InThreads);
        TFPS_CHECK(one == many);
        int64_t at = 0;
        for (int64_t r = 0; r < rows; ++r) {
          int64_t times = 0;
          std::vector<double> expected(dim);
          for (const Segment& segment : segments) {
            for (int64_t i = 0; i < segment.count; ++i) {
              if (segment.positions[i] != r) continue;
              ++times;
              for (int64_t j = 0; j < dim; ++j) {
                const double g = segment.gradients[i * dim + j];
                expected[j] += measure == Measure::kSquare ? g * g : std::fabs(g);
              }
            }
          }
          TFPS_CHECK(repeats.index_of[r] == (times > 1 ? at : -1));
          for (int64_t j = 0; times > 1 && j < dim; ++j) TFPS_CHECK(std::fabs(one[at * dim + j] - expected[j]) < 1e-4);
          at += times > 1;
        }
        TFPS_CHECK(at == repeats.count);
      }
    }
  }
}

TFPS_TEST(NothingIsMeasuredWhereNoRowRepeats) {
  const std::vector<int32_t> positions = {2, 0};
  const std::vector<Segment> segments = {{nullptr, positions.data(), 2}};
  const Repeats repeats = FindRepeats(segments, 3);
  TFPS_CHECK(repeats.count == 0 && repeats.index_of == std::vector<int32_t>({-1, -1, -1}));
  SegmentSumMeasures(segments, repeats, Measure::kSquare, 4, nullptr, InThreads);
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
