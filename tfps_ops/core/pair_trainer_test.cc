#include "tfps_ops/core/pair_trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

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

std::unique_ptr<PairTrainer> Trainer(const char* rule, CpuTarget target = BestCpuTarget()) {
  return ValueOf(MakePairTrainer(rule, target));
}

bool Near(double got, double expected) { return std::fabs(got - expected) <= 2e-4 * (1 + std::fabs(expected)); }

TFPS_TEST(TrainedPairsEqualTheDefinition) {
  for (bool adagrad : {false, true}) {
    for (int64_t dim : {1, 3, 16, 17, 100, 128, 130}) {
      for (int64_t count : {0, 1, 40}) {
        for (int64_t width : {1, 6}) {
          Example example(count, width, dim, 5);
          for (float& f : example.rows) f /= std::sqrt(static_cast<float>(dim));
          const auto trainer = Trainer(adagrad ? "adagrad" : "sgd");
          TFPS_CHECK(trainer->slots() == adagrad);
          TFPS_CHECK(CheckPairs(example.pairs, example.trained.rows).ok());
          const double loss = trainer->Train((adagrad ? kAdagrad : kSgd).data(), example.pairs, example.trained).value();
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
      const double loss = Trainer(rule, CpuTarget::kBaseline)->Train(hyper.data(), first.pairs, first.trained).value();
      for (CpuTarget target : SupportedCpuTargets()) {
        Example example(40, 6, dim, 6);
        TFPS_CHECK(Trainer(rule, target)->Train(hyper.data(), example.pairs, example.trained).value() == loss);
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
  const double loss = Trainer("sgd")->Train(kSgd.data(), example.pairs, example.trained).value();
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
        const double loss = Trainer(rule, target)->Train(still, example.pairs, example.trained).value();
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
        TFPS_CHECK(std::isnan(Trainer("sgd", target)->Train(kSgd.data(), example.pairs, example.trained).value()));
      }
    }
  }
}

// Whether the pairs are refused because of pair `number`.
bool RefusedAt(const Pairs& pairs, int64_t rows, int64_t number) {
  return CheckPairs(pairs, rows).message().find("Received: pair " + std::to_string(number) + " with center ") !=
         std::string::npos;
}

TFPS_TEST(PairsOutsideTheRowsAreRefused) {
  const int32_t centers[] = {0, 6, 7, -1}, targets[] = {0, 6, 1, 2, 3, 4, 5, 6};
  TFPS_CHECK(CheckPairs({centers, targets, 2, 2}, 7).ok());
  TFPS_CHECK(CheckPairs({centers, targets, 4, 2}, 7).message() ==
             "`centers` and `targets` must be at least 0 and below the rows, 7. Received: pair 2 with center 7 and targets 3, 4.");
  TFPS_CHECK(RefusedAt({centers, targets, 4, 2}, 7, 2));
  TFPS_CHECK(RefusedAt({centers, targets, 4, 2}, 8, 3));
  TFPS_CHECK(RefusedAt({centers, targets, 2, 2}, 6, 0));
  TFPS_CHECK(RefusedAt({centers, centers, 2, 2}, 7, 1));
}

TFPS_TEST(AHandComputedPair) {
  // Rows of one float: the center is 2, the positive target 0, so the score is 0 and its sigmoid 1/2.
  const float rows[] = {2.0f, 0.0f};
  float deltas[] = {NAN, NAN};
  const int32_t center = 0, target = 1;
  TrainedRows trained;
  trained.before[0] = rows, trained.deltas[0] = deltas, trained.rows = 2, trained.dim = 1;
  const float hyper[] = {0.5f, 0.0f};
  // slope = 1/2 - 1: the target moves by 0.5 * 0.5 * 2, the center by 0.5 * 0.5 * 0 as the target was before its update.
  const double loss = Trainer("sgd")->Train(hyper, {&center, &target, 1, 1}, trained).value();
  TFPS_CHECK(std::fabs(loss - std::log(2.0)) < 1e-6);
  TFPS_CHECK(deltas[0] == 0.0f && deltas[1] == 0.5f);
}

TFPS_TEST(ATargetThatAPairHasTwiceIsUpdatedTwice) {
  // As two targets one after the other: the second score is of the row that the first has moved.
  const float rows[] = {2.0f, 0.0f}, hyper[] = {0.5f, 0.0f};
  float deltas[2];
  const int32_t center = 0, targets[] = {1, 1};
  TrainedRows trained;
  trained.before[0] = rows, trained.deltas[0] = deltas, trained.rows = 2, trained.dim = 1;
  Trainer("sgd")->Train(hyper, {&center, targets, 1, 2}, trained).value();
  const double slope = 1 / (1 + std::exp(-2 * 0.5));  // the second target is a negative with the score 2 * 0.5
  TFPS_CHECK(std::fabs(deltas[1] - (0.5 - 0.5 * slope * 2)) < 1e-6);
  TFPS_CHECK(std::fabs(deltas[0] + 0.5 * slope * 0.5) < 1e-6);
}

TFPS_TEST(PairsOfOneCallEqualThoseOfSeveral) {
  // A window that is cut in two and trained one part after the other comes to the same rows.
  for (const char* rule : {"sgd", "adagrad"}) {
    const std::vector<float>& hyper = rule[0] == 's' ? kSgd : kAdagrad;
    Example whole(30, 4, 20, 9), parts(30, 4, 20, 9);
    const double loss = Trainer(rule)->Train(hyper.data(), whole.pairs, whole.trained).value();
    double sum = 0;
    for (int64_t begin : {0, 10}) {
      Pairs some = parts.pairs;
      some.centers += begin, some.targets += begin * some.width, some.count = begin == 0 ? 10 : 20;
      sum += Trainer(rule)->Train(hyper.data(), some, parts.trained).value();
      for (size_t i = 0; i < parts.rows.size(); ++i) parts.rows[i] += parts.row_deltas[i];
      for (size_t i = 0; i < parts.slots.size() && rule[0] == 'a'; ++i) parts.slots[i] += parts.slot_deltas[i];
    }
    TFPS_CHECK(Near(sum, loss));
    for (size_t i = 0; i < parts.rows.size(); ++i) TFPS_CHECK(Near(parts.rows[i], whole.rows[i] + whole.row_deltas[i]));
  }
}

TFPS_TEST(NoPairsMoveNothing) {
  for (const char* rule : {"sgd", "adagrad"}) {
    Example example(0, 5, 17, 3);
    TFPS_CHECK(Trainer(rule)->Train((rule[0] == 's' ? kSgd : kAdagrad).data(), example.pairs, example.trained).value() == 0);
    for (float f : example.row_deltas) TFPS_CHECK(f == 0);
  }
}

TFPS_TEST(ThreadsMayShareATrainer) {
  const auto trainer = Trainer("adagrad");
  std::vector<std::unique_ptr<Example>> examples;
  for (int i = 0; i < 4; ++i) examples.push_back(std::make_unique<Example>(40, 6, 100, 6));
  std::vector<std::thread> threads;
  for (auto& example : examples) {
    threads.emplace_back([&] { TFPS_CHECK(trainer->Train(kAdagrad.data(), example->pairs, example->trained).ok()); });
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& example : examples) TFPS_CHECK(example->row_deltas == examples[0]->row_deltas);
}

TFPS_TEST(OnlySomeRulesTrainPairs) {
  TFPS_CHECK(MakePairTrainer("adam").status().message() == "`rule` must be sgd or adagrad. Received: adam.");
}

}  // namespace
}  // namespace tfps
