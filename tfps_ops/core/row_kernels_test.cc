// The loops of row_kernels.inc that no rule needs, each against its definition, for every CPU target and odd widths.
#include "tfps_ops/core/row_kernels.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

// Below, at and above the widths of the vectors of all targets, 4, 8 and 16.
const int64_t kDims[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 100};

void ForEachTarget(const std::function<void(const RowKernels& kernels, int64_t dim)>& check) {
  for (CpuTarget target : SupportedCpuTargets()) {
    for (int64_t dim : kDims) check(RowKernelsFor(target), dim);
  }
}

bool Near(double got, double expected) { return std::fabs(got - expected) <= 1e-5 * (1 + std::fabs(expected)); }

// Random positions, in a buffer of exactly their number.
template <class Integer>
std::vector<Integer> Positions(Random* random, int64_t count, int64_t rows) {
  std::vector<Integer> positions(count);
  for (Integer& position : positions) position = static_cast<Integer>(random->Integer(0, rows - 1));
  return positions;
}

TFPS_TEST(AddAddsTheRowsOfItsRange) {
  ForEachTarget([](const RowKernels& kernels, int64_t dim) {
    Random random(dim);
    const int64_t count = 50, rows = 9;
    const std::vector<float> values = random.Floats(count * dim), start = random.Floats(rows * dim);
    const std::vector<int32_t> positions = Positions<int32_t>(&random, count, rows);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 9}, {0, 4}, {4, 9}, {3, 3}}) {
      std::vector<float> out = start, expected = start;
      kernels.add({values.data(), positions.data(), count, dim, begin, end, out.data()});
      for (int64_t i = 0; i < count * dim; ++i) {
        const int64_t row = positions[i / dim];
        if (row >= begin && row < end) expected[row * dim + i % dim] += values[i];
      }
      TFPS_CHECK(out == expected);  // the same order of additions, so the same bits
    }
  });
}

TFPS_TEST(AddSharesAddsAPartOfAnotherRow) {
  ForEachTarget([](const RowKernels& kernels, int64_t dim) {
    Random random(dim);
    const int64_t count = 50, bags = 6, rows = 9, begin = 2, end = 8;
    const std::vector<float> values = random.Floats(bags * dim), shares = random.Floats(count);
    const std::vector<int64_t> sources = Positions<int64_t>(&random, count, bags);
    const std::vector<int32_t> positions = Positions<int32_t>(&random, count, rows);
    std::vector<float> out(rows * dim), expected(rows * dim);
    kernels.add_shares(
        {values.data(), sources.data(), shares.data(), positions.data(), count, dim, begin, end, out.data()});
    for (int64_t i = 0; i < count * dim; ++i) {
      const int64_t k = i / dim, row = positions[k];
      if (row >= begin && row < end) expected[row * dim + i % dim] += shares[k] * values[sources[k] * dim + i % dim];
    }
    TFPS_CHECK(out == expected);
  });
}

TFPS_TEST(PoolIsTheWeightedSumOverItsDivisor) {
  ForEachTarget([](const RowKernels& kernels, int64_t dim) {
    Random random(dim);
    const int64_t rows = 9;
    const std::vector<float> table = random.Floats(rows * dim);
    for (int64_t count : {0, 1, 3, 20}) {
      // The places behind the bag's own are those of the next bag, which may be prefetched but not added.
      const std::vector<int32_t> places = Positions<int32_t>(&random, count + 5, rows);
      const std::vector<float> weights = random.Floats(count);
      for (const float* of : {static_cast<const float*>(nullptr), weights.data()}) {
        std::vector<float> out(dim, NAN);
        kernels.pool({table.data(), places.data(), of, count, count + 5, dim, 2.5f, out.data()});
        for (int64_t j = 0; j < dim; ++j) {
          double sum = 0;
          for (int64_t i = 0; i < count; ++i) sum += (of == nullptr ? 1.0 : of[i]) * table[places[i] * dim + j];
          TFPS_CHECK(Near(out[j], sum / 2.5));
        }
      }
    }
  });
}

TFPS_TEST(APoolWithADivisorOfZeroIsZero) {
  ForEachTarget([](const RowKernels& kernels, int64_t dim) {
    const std::vector<float> table(dim, 3.0f);
    const int32_t place = 0;
    std::vector<float> out(dim, NAN);
    kernels.pool({table.data(), &place, nullptr, 1, 1, dim, 0.0f, out.data()});
    TFPS_CHECK(out == std::vector<float>(dim, 0.0f));
  });
}

TFPS_TEST(DotIsTheInnerProduct) {
  ForEachTarget([](const RowKernels& kernels, int64_t dim) {
    Random random(dim);
    const int64_t rows = 9, count = 12;
    const std::vector<float> table = random.Floats(rows * dim), gradient = random.Floats(dim);
    const std::vector<int32_t> places = Positions<int32_t>(&random, count, rows);
    std::vector<float> out(count, NAN);
    kernels.dot({gradient.data(), table.data(), places.data(), count, dim, out.data()});
    for (int64_t i = 0; i < count; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < dim; ++j) sum += double{gradient[j]} * table[places[i] * dim + j];
      TFPS_CHECK(Near(out[i], sum));
    }
  });
}

TFPS_TEST(EveryTargetComputesTheSameBits) {
  const std::vector<CpuTarget> targets = SupportedCpuTargets();
  for (int64_t dim : kDims) {
    std::vector<std::vector<float>> results;
    for (CpuTarget target : targets) {
      const RowKernels& kernels = RowKernelsFor(target);
      Random random(dim);
      const int64_t rows = 9, count = 30;
      const std::vector<float> table = random.Floats(rows * dim), values = random.Floats(count * dim);
      const std::vector<int32_t> places = Positions<int32_t>(&random, count, rows);
      std::vector<float>& out = results.emplace_back(rows * dim + dim + count);
      kernels.add({values.data(), places.data(), count, dim, 0, rows, out.data()});
      kernels.pool({table.data(), places.data(), values.data(), count, count, dim, 3, out.data() + rows * dim});
      kernels.dot({values.data(), table.data(), places.data(), count, dim, out.data() + (rows + 1) * dim});
      TFPS_CHECK(!std::memcmp(out.data(), results[0].data(), out.size() * sizeof(float)));
    }
  }
}

TFPS_TEST(TheBaselineIsAlwaysSupportedAndTheBestIsTheLast) {
  const std::vector<CpuTarget> targets = SupportedCpuTargets();
  TFPS_CHECK(targets[0] == CpuTarget::kBaseline && targets.back() == BestCpuTarget());
  // In the order of the enum, each once: a CPU with AVX-512 has AVX2 too.
  for (size_t i = 0; i < targets.size(); ++i) TFPS_CHECK(targets[i] == static_cast<CpuTarget>(i));
}

TFPS_TEST(EveryTargetHasLoopsOfItsOwn) {
  for (CpuTarget a : SupportedCpuTargets()) {
    for (CpuTarget b : SupportedCpuTargets()) {
      TFPS_CHECK((&RowKernelsFor(a) == &RowKernelsFor(b)) == (a == b));
      TFPS_CHECK((RowKernelsFor(a).add == RowKernelsFor(b).add) == (a == b));
    }
  }
}

}  // namespace
}  // namespace tfps
