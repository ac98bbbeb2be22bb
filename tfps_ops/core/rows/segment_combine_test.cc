#include "tfps_ops/core/rows/segment_combine.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tfps_ops/core/row_kernels.h"
#include "tfps_ops/core/rows/segment_sum.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

constexpr Combiner kCombiners[] = {Combiner::kSum, Combiner::kMean, Combiner::kSqrtn};

// Random elements of bags, some of which are empty, in buffers of exactly their sizes.
struct Example {
  std::vector<int32_t> places;
  std::vector<int64_t> segments;
  std::vector<float> weights, rows, gradients;
  Bags bags;

  Example(Combiner combiner, bool weighted, int64_t elements, int64_t dim, int seed) {
    Random random(seed);
    bags = {combiner, nullptr, nullptr, nullptr, elements, 9, 20, dim};
    for (int64_t i = 0; i < elements; ++i) {
      places.push_back(random.Integer(0, bags.rows - 1));
      segments.push_back(random.Integer(0, bags.count - 1));
      weights.push_back(1.5f + 0.3f * random.Float());
    }
    std::sort(segments.begin(), segments.end());
    rows = random.Floats(bags.rows * dim);
    gradients = random.Floats(bags.count * dim);
    for (auto* buffer : {&weights, &rows, &gradients}) buffer->shrink_to_fit();
    places.shrink_to_fit();
    segments.shrink_to_fit();
    bags.places = places.data();
    bags.segments = segments.data();
    if (weighted) bags.weights = weights.data();
  }

  double Weight(int64_t i) const { return bags.weights == nullptr ? 1 : weights[i]; }

  double Divisor(int64_t segment) const {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < bags.elements; ++i) {
      if (segments[i] == segment) sum += Weight(i), squares += Weight(i) * Weight(i);
    }
    return bags.combiner == Combiner::kSum ? 1 : bags.combiner == Combiner::kMean ? sum : std::sqrt(squares);
  }

  // The definition, in double precision, [count, dim].
  std::vector<double> Combined() const {
    std::vector<double> combined(bags.count * bags.dim);
    for (int64_t i = 0; i < bags.elements; ++i) {
      for (int64_t j = 0; j < bags.dim; ++j) {
        combined[segments[i] * bags.dim + j] += Weight(i) * rows[places[i] * bags.dim + j] / Divisor(segments[i]);
      }
    }
    return combined;
  }

  // What the gradients make of the result: the one number that they are the gradient of.
  double Loss() const {
    const std::vector<double> combined = Combined();
    double loss = 0;
    for (size_t i = 0; i < combined.size(); ++i) loss += combined[i] * gradients[i];
    return loss;
  }

  // The loss's slope as `value` changes, by central difference: exact for rows, in which it is linear.
  double Slope(float* value) const {
    const float before = *value;
    const float step = 0.015625f;
    *value = before + step;
    const double up = Loss(), high = *value;
    *value = before - step;
    const double slope = (up - Loss()) / (high - *value);
    *value = before;
    return slope;
  }
};

bool Near(double got, double expected, double tolerance) {
  return std::fabs(got - expected) <= tolerance * (1 + std::fabs(expected));
}

// Runs `check` on examples of every kind.
template <class Check>
void ForEachExample(const Check& check) {
  for (Combiner combiner : kCombiners) {
    for (bool weighted : {false, true}) {
      for (int64_t dim : {1, 3, 4, 8, 10, 16, 17, 33}) {
        for (int64_t elements : {0, 1, 40}) check(Example(combiner, weighted, elements, dim, 9));
      }
    }
  }
}

// Runs `run` with one thread and with several, and returns what both wrote, which must be the same.
template <class Run>
std::vector<float> WithAnyNumberOfThreads(int64_t size, const Run& run) {
  std::vector<float> one(size, NAN), many(size, NAN);
  run(one.data(), InCallersThread);
  run(many.data(), InThreads);
  TFPS_CHECK(size == 0 || !std::memcmp(one.data(), many.data(), size * sizeof(float)));
  return one;
}

TFPS_TEST(CombinedRowsEqualTheDefinition) {
  ForEachExample([](const Example& example) {
    const Bags& bags = example.bags;
    TFPS_CHECK(CheckBags(bags).ok());
    const std::vector<double> expected = example.Combined();
    const std::vector<float> got = WithAnyNumberOfThreads(
        bags.count * bags.dim,
        [&](float* out, const ParallelFor& parallel) { CombineRows(bags, example.rows.data(), out, parallel); });
    for (size_t i = 0; i < got.size(); ++i) TFPS_CHECK(Near(got[i], expected[i], 1e-5));
  });
}

TFPS_TEST(GradientsOfRowsAreSlopes) {
  ForEachExample([](Example example) {
    const Bags& bags = example.bags;
    const std::vector<float> got =
        WithAnyNumberOfThreads(bags.rows * bags.dim, [&](float* out, const ParallelFor& parallel) {
          CombineRowsGradient(bags, example.gradients.data(), out, parallel);
        });
    for (size_t i = 0; i < got.size(); i += 7) TFPS_CHECK(Near(got[i], example.Slope(&example.rows[i]), 1e-5));
  });
}

TFPS_TEST(GradientsOfWeightsAreSlopes) {
  ForEachExample([](Example example) {
    const Bags& bags = example.bags;
    if (bags.weights == nullptr) return;
    const std::vector<float> got =
        WithAnyNumberOfThreads(bags.elements, [&](float* out, const ParallelFor& parallel) {
          CombineWeightsGradient(bags, example.gradients.data(), example.rows.data(), out, parallel);
        });
    for (size_t i = 0; i < got.size(); i += 3) TFPS_CHECK(Near(got[i], example.Slope(&example.weights[i]), 5e-4));
  });
}

TFPS_TEST(WeightsThatComeToNothingGiveNothing) {
  for (Combiner combiner : {Combiner::kMean, Combiner::kSqrtn}) {
    Example example(combiner, true, 40, 5, 10);
    std::fill(example.weights.begin(), example.weights.end(), 0.0f);
    std::vector<float> combined(20 * 5, NAN), sums(9 * 5, NAN), slopes(40, NAN);
    CombineRows(example.bags, example.rows.data(), combined.data(), InCallersThread);
    CombineRowsGradient(example.bags, example.gradients.data(), sums.data(), InCallersThread);
    CombineWeightsGradient(example.bags, example.gradients.data(), example.rows.data(), slopes.data(), InCallersThread);
    for (const auto* buffer : {&combined, &sums, &slopes}) {
      for (float f : *buffer) TFPS_CHECK(f == 0);
    }
  }
}

TFPS_TEST(EveryCpuTargetCombinesToTheSameBits) {
  for (int64_t dim : {1, 3, 4, 7, 8, 10, 16, 17, 31, 64}) {
    const Example example(Combiner::kSum, true, 40, dim, 11);
    const Bags& bags = example.bags;
    std::vector<std::vector<float>> results;
    for (CpuTarget target : SupportedCpuTargets()) {
      const RowKernels& kernels = RowKernelsFor(target);
      std::vector<float> out(dim + 40 + bags.rows * dim);
      float* sums = out.data() + dim + 40;
      kernels.pool({example.rows.data(), bags.places, bags.weights, 40, 40, dim, 3, out.data()});
      kernels.dot({example.gradients.data(), example.rows.data(), bags.places, 40, dim, out.data() + dim});
      kernels.add_shares(
          {example.gradients.data(), bags.segments, bags.weights, bags.places, 40, dim, 0, bags.rows, sums});
      results.push_back(out);
      TFPS_CHECK(!std::memcmp(out.data(), results[0].data(), out.size() * sizeof(float)));
    }
  }
}

TFPS_TEST(BagsOfOneElementAreTheirRows) {
  // Each combiner gives back the row itself: w * r / w, and w * r / sqrt(w * w) for a positive weight.
  const int64_t dim = 10;
  for (Combiner combiner : {Combiner::kMean, Combiner::kSqrtn}) {
    Example example(combiner, true, 20, dim, 12);
    for (int64_t i = 0; i < 20; ++i) example.segments[i] = i;
    std::vector<float> combined(20 * dim, NAN);
    CombineRows(example.bags, example.rows.data(), combined.data(), InThreads);
    for (int64_t i = 0; i < 20 * dim; ++i) {
      TFPS_CHECK(Near(combined[i], example.rows[example.places[i / dim] * dim + i % dim], 1e-6));
    }
  }
}

TFPS_TEST(SumsOfUnweightedBagsAreSegmentSumsOfTheirRows) {
  // The same numbers by another way: rows copied out element by element, and added by the ops of a plain lookup.
  const int64_t dim = 7;
  const Example example(Combiner::kSum, false, 40, dim, 13);
  const Bags& bags = example.bags;
  std::vector<float> copied(bags.elements * dim), expected(bags.count * dim), got(bags.count * dim);
  for (int64_t i = 0; i < bags.elements * dim; ++i) copied[i] = example.rows[example.places[i / dim] * dim + i % dim];
  std::vector<int32_t> positions(example.segments.begin(), example.segments.end());
  SegmentSum({{copied.data(), positions.data(), bags.elements}}, bags.count, dim, expected.data(), InCallersThread);
  CombineRows(bags, example.rows.data(), got.data(), InThreads);
  TFPS_CHECK(got == expected);
}

TFPS_TEST(GradientsOfRowsSumOverAllBagsThatHaveThem) {
  // One row in three bags gets the sum of their gradients; a row in none gets 0.
  const int32_t places[] = {1, 1, 1};
  const int64_t segments[] = {0, 1, 2};
  const float gradients[] = {1, 10, 100};
  float sums[] = {NAN, NAN};
  const Bags bags = {Combiner::kSum, places, segments, nullptr, 3, 2, 3, 1};
  CombineRowsGradient(bags, gradients, sums, InThreads);
  TFPS_CHECK(sums[0] == 0.0f && sums[1] == 111.0f);
}

TFPS_TEST(NoRowsAndNoBagsAreNoWork) {
  const Bags bags = {Combiner::kMean, nullptr, nullptr, nullptr, 0, 0, 0, 5};
  TFPS_CHECK(CheckBags(bags).ok());
  CombineRows(bags, nullptr, nullptr, InThreads);
  CombineRowsGradient(bags, nullptr, nullptr, InThreads);
  CombineWeightsGradient(bags, nullptr, nullptr, nullptr, InThreads);
}

// Whether the bags are refused because of element `number`.
bool RefusedAt(const Bags& bags, int64_t number) {
  const Status status = CheckBags(bags);
  return status.code() == StatusCode::kInvalidArgument &&
         status.message().find(" as element " + std::to_string(number) + ".") != std::string::npos;
}

TFPS_TEST(MisplacedElementsAreRefused) {
  const int32_t places[] = {0, 8, 9, -1};
  const int64_t ascending[] = {0, 0, 3, 3}, back[] = {0, 2, 1, 3}, negative[] = {-1, 0, 0, 0};
  Bags bags = {Combiner::kSum, places, ascending, nullptr, 2, 9, 4, 1};
  TFPS_CHECK(CheckBags(bags).ok());
  bags.elements = 4;
  TFPS_CHECK(RefusedAt(bags, 2));
  TFPS_CHECK(CheckBags(bags).message() ==
             "`places` must be at least 0 and below the rows, 9, and `segments` ascending, at least 0 and below the bags, 4. "
             "Received: place 9 in segment 3 as element 2.");
  bags.rows = 10;
  TFPS_CHECK(RefusedAt(bags, 3));
  bags.count = 3;
  TFPS_CHECK(RefusedAt(bags, 2));
  bags.segments = back;
  TFPS_CHECK(RefusedAt(bags, 2));
  bags.segments = negative;
  TFPS_CHECK(RefusedAt(bags, 0));
}

}  // namespace
}  // namespace tfps
