#include "tfps_ops/core/pair_trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

// Random pairs over few rows, so that a pair often has a target twice, in buffers of exactly their sizes.
struct Example {
  std::vector<int32_t> centers, targets;
  std::vector<float> rows, slots, row_deltas, slot_deltas;
  Pairs pairs;
  TrainedRows trained;

  Example(int64_t count, int64_t width, int64_t dim, int seed) {
    Random random(seed);
    const int64_t all = 7;
    for (int64_t i = 0; i < count; ++i) centers.push_back(random.Integer(0, all - 1));
    for (int64_t i = 0; i < count * width; ++i) targets.push_back(random.Integer(0, all - 1));
    rows = random.Floats(all * dim);
    for (float f : random.Floats(all * dim)) slots.push_back(0.1f + f * f);
    row_deltas.assign(all * dim, NAN);
    slot_deltas.assign(all * dim, NAN);
    for (auto* buffer : {&rows, &slots, &row_deltas, &slot_deltas}) buffer->shrink_to_fit();
    centers.shrink_to_fit();
    targets.shrink_to_fit();
    pairs = {centers.data(), targets.data(), count, width};
    trained.before[0] = rows.data(), trained.before[1] = slots.data();
    trained.deltas[0] = row_deltas.data(), trained.deltas[1] = slot_deltas.data();
    trained.rows = all, trained.dim = dim;
  }
};

const std::vector<float> kSgd = {0.1f, 0.01f}, kAdagrad = {0.2f, 1e-7f, 0.01f};

// The definition of pair_trainer.h, in double precision: rows and slots afterwards, and the loss.
class Slow {
 public:
  Slow(const Example& example, bool adagrad)
      : rows(example.rows.begin(), example.rows.end()),
        slots(example.slots.begin(), example.slots.end()),
        adagrad_(adagrad),
        dim_(example.trained.dim) {
    const Pairs& pairs = example.pairs;
    for (int64_t i = 0; i < pairs.count; ++i) {
      const double* at = rows.data() + pairs.centers[i] * dim_;
      const std::vector<double> center(at, at + dim_);
      std::vector<double> gradient(dim_);
      for (int64_t k = 0; k < pairs.width; ++k) TrainTarget(pairs.targets[i * pairs.width + k], k == 0, center, &gradient);
      Update(pairs.centers[i], gradient);
    }
  }

  std::vector<double> rows, slots;
  double loss = 0;

 private:
  void TrainTarget(int64_t row, bool positive, const std::vector<double>& center, std::vector<double>* gradient) {
    double score = 0;
    for (int64_t j = 0; j < dim_; ++j) score += center[j] * rows[row * dim_ + j];
    const double slope = 1 / (1 + std::exp(-score)) - positive;
    loss += std::log1p(std::exp(positive ? -score : score));
    std::vector<double> of_target(dim_);
    for (int64_t j = 0; j < dim_; ++j) {
      (*gradient)[j] += slope * rows[row * dim_ + j];
      of_target[j] = slope * center[j];
    }
    Update(row, of_target);
  }

  void Update(int64_t row, const std::vector<double>& gradient) {
    for (int64_t j = 0; j < dim_; ++j) {
      double &w = rows[row * dim_ + j], &a = slots[row * dim_ + j], g = gradient[j];
      w -= w * 0.01f;
      if (adagrad_) a += g * g;
      w -= adagrad_ ? 0.2f * g / std::sqrt(a + 1e-7f) : 0.1f * g;
    }
  }

  const bool adagrad_;
  const int64_t dim_;
};

bool Near(double got, double expected) { return std::fabs(got - expected) <= 2e-4 * (1 + std::fabs(expected)); }

TFPS_TEST(TrainedPairsEqualTheDefinition) {
  for (bool adagrad : {false, true}) {
    for (int64_t dim : {1, 3, 16, 17, 100, 128, 130}) {
      for (int64_t count : {0, 1, 40}) {
        for (int64_t width : {1, 6}) {
          Example example(count, width, dim, 5);
          for (float& f : example.rows) f /= std::sqrt(static_cast<float>(dim));
          const auto trainer = MakePairTrainer(adagrad ? "adagrad" : "sgd");
          TFPS_CHECK(trainer->slots() == adagrad);
          TFPS_CHECK(FirstBadPair(example.pairs, example.trained.rows) == -1);
          const double loss = trainer->Train((adagrad ? kAdagrad : kSgd).data(), example.pairs, example.trained);
          const Slow slow(example, adagrad);
          TFPS_CHECK(Near(loss, slow.loss));
          for (size_t i = 0; i < slow.rows.size(); ++i) {
            TFPS_CHECK(Near(example.row_deltas[i] + example.rows[i], slow.rows[i]));
            if (adagrad) TFPS_CHECK(Near(example.slot_deltas[i] + example.slots[i], slow.slots[i]));
          }
        }
      }
    }
  }
}

TFPS_TEST(EveryCpuTargetTrainsToTheSameBits) {
  for (bool adagrad : {false, true}) {
    for (int64_t dim : {1, 10, 16, 40, 100, 128, 200}) {
      Example first(40, 6, dim, 6);
      const std::vector<float>& hyper = adagrad ? kAdagrad : kSgd;
      const char* rule = adagrad ? "adagrad" : "sgd";
      const double loss = MakePairTrainer(rule, CpuTarget::kBaseline)->Train(hyper.data(), first.pairs, first.trained);
      for (CpuTarget target : SupportedCpuTargets()) {
        Example example(40, 6, dim, 6);
        TFPS_CHECK(MakePairTrainer(rule, target)->Train(hyper.data(), example.pairs, example.trained) == loss);
        const size_t bytes = first.row_deltas.size() * sizeof(float);
        TFPS_CHECK(!std::memcmp(example.row_deltas.data(), first.row_deltas.data(), bytes));
        TFPS_CHECK(!adagrad || !std::memcmp(example.slot_deltas.data(), first.slot_deltas.data(), bytes));
      }
    }
  }
}

TFPS_TEST(ALossThatNoFloatHoldsIsLimited) {
  Example example(1, 1, 1, 7);
  example.centers[0] = 0, example.targets[0] = 1;
  example.rows[0] = 100, example.rows[1] = -100;
  const double loss = MakePairTrainer("sgd")->Train(kSgd.data(), example.pairs, example.trained);
  TFPS_CHECK(std::fabs(loss - 87.3365) < 1e-3);
}

TFPS_TEST(ALossThatNoDoubleHoldsTheProbabilityOfIsTheSumOfItsTargets) {
  for (const char* rule : {"sgd", "adagrad"}) {
    for (CpuTarget target : SupportedCpuTargets()) {
      for (int64_t dim : {1, 100, 200}) {
        Example example(2, 12, dim, 7);
        for (int64_t i = 0; i < 2 * 12; ++i) example.targets[i] = i % 12 == 0 ? 2 : 1;
        for (int64_t i = 0; i < 2; ++i) example.centers[i] = 0;
        std::fill(example.rows.begin(), example.rows.end(), 0.0f);
        // A score of -100 for the first target, of 100 for the others.
        example.rows[0] = 10, example.rows[dim] = 10, example.rows[2 * dim] = -10;
        const float still[] = {0, 1e-7f, 0};  // at a rate of 0 the second pair finds the rows as the first did
        const double loss = MakePairTrainer(rule, target)->Train(still, example.pairs, example.trained);
        TFPS_CHECK(std::fabs(loss - 2 * 12 * 87.3365) < 1e-2);
      }
    }
  }
}

TFPS_TEST(RowsThatAreNoNumbersHaveALossThatIsNone) {
  for (CpuTarget target : SupportedCpuTargets()) {
    for (int64_t dim : {1, 100, 200}) {
      for (int64_t width : {1, 6, 12}) {
        Example example(3, width, dim, 7);
        std::fill(example.rows.begin(), example.rows.end(), NAN);
        TFPS_CHECK(std::isnan(MakePairTrainer("sgd", target)->Train(kSgd.data(), example.pairs, example.trained)));
      }
    }
  }
}

TFPS_TEST(BadPairsAreFound) {
  const int32_t centers[] = {0, 6, 7, -1}, targets[] = {0, 6, 1, 2, 3, 4, 5, 6};
  TFPS_CHECK(FirstBadPair({centers, targets, 2, 2}, 7) == -1);
  TFPS_CHECK(FirstBadPair({centers, targets, 4, 2}, 7) == 2);
  TFPS_CHECK(FirstBadPair({centers, targets, 4, 2}, 8) == 3);
  TFPS_CHECK(FirstBadPair({centers, targets, 2, 2}, 6) == 0);
  TFPS_CHECK(FirstBadPair({centers, centers, 2, 2}, 7) == 1);
}

TFPS_TEST(OnlySomeRulesTrainPairs) { TFPS_CHECK(MakePairTrainer("adam") == nullptr); }

}  // namespace
}  // namespace tfps
