// Groups of pair_trainer.h against the definition there, in double precision.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tfps_ops/core/pair_trainer.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

const std::vector<float> kSgd = {0.1f, 0.01f}, kAdagrad = {0.2f, 1e-7f, 0.01f};

// Random groups of 0 to `most` centers over few rows, so that a group often names a row twice, in buffers of exactly their sizes.
struct Example {
  std::vector<int32_t> centers, sizes, targets;
  std::vector<float> rows, slots, row_deltas, slot_deltas;
  Groups groups;
  TrainedRows trained;

  Example(int64_t count, int64_t most, int64_t width, int64_t dim, int seed) {
    Random random(seed);
    const int64_t all = 7;
    for (int64_t i = 0; i < count; ++i) sizes.push_back(i == 0 ? most : random.Integer(0, most));
    const int64_t center_count = std::accumulate(sizes.begin(), sizes.end(), 0);
    for (int64_t i = 0; i < center_count; ++i) centers.push_back(random.Integer(0, all - 1));
    for (int64_t i = 0; i < count * width; ++i) targets.push_back(random.Integer(0, all - 1));
    rows = random.Floats(all * dim);
    for (float& f : rows) f /= std::sqrt(static_cast<float>(dim));
    for (float f : random.Floats(all * dim)) slots.push_back(0.1f + f * f);
    row_deltas.assign(all * dim, NAN);
    slot_deltas.assign(all * dim, NAN);
    for (auto* ids : {&centers, &sizes, &targets}) ids->shrink_to_fit();
    for (auto* buffer : {&rows, &slots, &row_deltas, &slot_deltas}) buffer->shrink_to_fit();
    groups = {centers.data(), sizes.data(), targets.data(), count, width, center_count};
    trained.before[0] = rows.data(), trained.before[1] = slots.data();
    trained.deltas[0] = row_deltas.data(), trained.deltas[1] = slot_deltas.data();
    trained.rows = all, trained.dim = dim;
  }
};

// The definition, one number after the other: rows and slots afterwards, and the loss.
class Slow {
 public:
  Slow(const Example& example, bool adagrad)
      : rows(example.rows.begin(), example.rows.end()),
        slots(example.slots.begin(), example.slots.end()),
        adagrad_(adagrad),
        dim_(example.trained.dim) {
    const int32_t* center = example.centers.data();
    for (int64_t g = 0; g < example.groups.count; ++g) {
      const std::vector<int32_t> centers(center, center + example.sizes[g]);
      const int32_t* target = example.targets.data() + g * example.groups.width;
      if (!centers.empty()) TrainGroup(centers, {target, target + example.groups.width});
      center += example.sizes[g];
    }
  }

  std::vector<double> rows, slots;
  double loss = 0;

 private:
  void TrainGroup(const std::vector<int32_t>& centers, const std::vector<int32_t>& targets) {
    const std::vector<double> before = rows;
    std::vector<std::vector<double>> slopes(centers.size(), std::vector<double>(targets.size()));
    for (size_t i = 0; i < centers.size(); ++i) {
      for (size_t j = 0; j < targets.size(); ++j) {
        double score = 0;
        for (int64_t d = 0; d < dim_; ++d) score += before[centers[i] * dim_ + d] * before[targets[j] * dim_ + d];
        slopes[i][j] = 1 / (1 + std::exp(-score)) - (j == 0);
        loss += std::log1p(std::exp(j == 0 ? -score : score));
      }
    }
    for (size_t j = 0; j < targets.size(); ++j) {
      std::vector<double> gradient(dim_);
      for (size_t i = 0; i < centers.size(); ++i) Add(before, centers[i], slopes[i][j], &gradient);
      Update(targets[j], gradient);
    }
    for (size_t i = 0; i < centers.size(); ++i) {
      std::vector<double> gradient(dim_);
      for (size_t j = 0; j < targets.size(); ++j) Add(before, targets[j], slopes[i][j], &gradient);
      Update(centers[i], gradient);
    }
  }

  void Add(const std::vector<double>& before, int32_t row, double slope, std::vector<double>* gradient) const {
    for (int64_t d = 0; d < dim_; ++d) (*gradient)[d] += slope * before[row * dim_ + d];
  }

  void Update(int64_t row, const std::vector<double>& gradient) {
    for (int64_t d = 0; d < dim_; ++d) {
      double &w = rows[row * dim_ + d], &a = slots[row * dim_ + d], g = gradient[d];
      w -= w * 0.01f;
      if (adagrad_) a += g * g;
      w -= adagrad_ ? 0.2f * g / std::sqrt(a + 1e-7f) : 0.1f * g;
    }
  }

  const bool adagrad_;
  const int64_t dim_;
};

std::unique_ptr<PairTrainer> Trainer(bool adagrad, CpuTarget target = BestCpuTarget()) {
  return ValueOf(MakePairTrainer(adagrad ? "adagrad" : "sgd", target));
}

double Train(Example* example, bool adagrad, CpuTarget target = BestCpuTarget()) {
  TFPS_CHECK(CheckGroups(example->groups, example->trained.rows).ok());
  return Trainer(adagrad, target)->Train((adagrad ? kAdagrad : kSgd).data(), example->groups, example->trained).value();
}

bool Near(double got, double expected) { return std::fabs(got - expected) <= 2e-4 * (1 + std::fabs(expected)); }

TFPS_TEST(TrainedGroupsEqualTheDefinition) {
  for (bool adagrad : {false, true}) {
    for (int64_t dim : {1, 3, 16, 17, 100, 128, 130, 150}) {
      for (int64_t count : {0, 1, 30}) {
        for (int64_t most : {0, 1, 7}) {
          for (int64_t width : {1, 6}) {
            Example example(count, most, width, dim, 5);
            const double loss = Train(&example, adagrad);
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
}

TFPS_TEST(EveryCpuTargetTrainsGroupsToTheSameBits) {
  for (bool adagrad : {false, true}) {
    for (int64_t dim : {1, 10, 16, 40, 100, 128, 200}) {
      Example first(40, 9, 6, dim, 6);
      const double loss = Train(&first, adagrad, CpuTarget::kBaseline);
      for (CpuTarget target : SupportedCpuTargets()) {
        Example example(40, 9, 6, dim, 6);
        TFPS_CHECK(Train(&example, adagrad, target) == loss);
        const size_t bytes = first.row_deltas.size() * sizeof(float);
        TFPS_CHECK(!std::memcmp(example.row_deltas.data(), first.row_deltas.data(), bytes));
        TFPS_CHECK(!adagrad || !std::memcmp(example.slot_deltas.data(), first.slot_deltas.data(), bytes));
      }
    }
  }
}

TFPS_TEST(GroupsOfOneCenterWithoutRepeatsArePairs) {
  for (bool adagrad : {false, true}) {
    Example groups(20, 1, 3, 40, 8), pairs(20, 1, 3, 40, 8);
    for (Example* example : {&groups, &pairs}) {
      std::fill(example->sizes.begin(), example->sizes.end(), 1);
      example->centers.assign(20, 0);
      example->groups.centers = example->centers.data(), example->groups.center_count = 20;
      for (int i = 0; i < 20; ++i) {
        // Rows that differ within a pair; the center's is among the first three, the targets' among the others.
        example->centers[i] = i % 3;
        for (int j = 0; j < 3; ++j) example->targets[i * 3 + j] = 3 + (i + j) % 4;
      }
    }
    const double loss = Train(&groups, adagrad);
    const Pairs some = {pairs.centers.data(), pairs.targets.data(), 20, 3};
    TFPS_CHECK(Near(Trainer(adagrad)->Train((adagrad ? kAdagrad : kSgd).data(), some, pairs.trained).value(), loss));
    for (size_t i = 0; i < pairs.rows.size(); ++i) TFPS_CHECK(Near(pairs.row_deltas[i], groups.row_deltas[i]));
  }
}

TFPS_TEST(AHandComputedGroup) {
  // Rows of one float: centers of 2 and 4, a positive target of 0. Both scores are 0, and both slopes 1/2 - 1.
  const float rows[] = {2.0f, 4.0f, 0.0f};
  float deltas[] = {NAN, NAN, NAN};
  const int32_t centers[] = {0, 1}, size = 2, target = 2;
  TrainedRows trained;
  trained.before[0] = rows, trained.deltas[0] = deltas, trained.rows = 3, trained.dim = 1;
  const float hyper[] = {0.5f, 0.0f};
  // The target moves by 0.5 * (0.5 * 2 + 0.5 * 4), and the centers not, as the target was 0 before.
  const double loss = Trainer(false)->Train(hyper, Groups{centers, &size, &target, 1, 1, 2}, trained).value();
  TFPS_CHECK(std::fabs(loss - 2 * std::log(2.0)) < 1e-6);
  TFPS_CHECK(deltas[0] == 0.0f && deltas[1] == 0.0f && deltas[2] == 1.5f);
}

TFPS_TEST(TheSigmoidOfGroupsIsExact) {
  // One center of 1, a negative target of the score: the center moves by the slope times the score.
  const int32_t center = 0, size = 1, targets[] = {1, 2};
  const float hyper[] = {1.0f, 0.0f};
  for (float score = -90; score <= 90; score += 0.37f) {
    const float rows[] = {1.0f, 0.0f, score};
    float deltas[3];
    TrainedRows trained;
    trained.before[0] = rows, trained.deltas[0] = deltas, trained.rows = 3, trained.dim = 1;
    const double loss = Trainer(false)->Train(hyper, Groups{&center, &size, targets, 1, 2, 1}, trained).value();
    const double softplus = std::max(0.0f, score) + std::log1p(std::exp(-std::fabs(static_cast<double>(score))));
    const double expected = std::log(2.0) + std::min(87.33654, softplus);
    TFPS_CHECK(std::fabs(loss - expected) < 2e-6 * (1 + expected));
    // The target's difference is of two floats of its size, so it has an error of that.
    const double moved = -1 / (1 + std::exp(-static_cast<double>(score)));
    TFPS_CHECK(std::fabs(deltas[2] - moved) < 1e-6 + 1e-7 * std::fabs(score));
  }
}

TFPS_TEST(LossesOfManyGroupsAreCollected) {
  // More lines of scores than a product of factors has room for.
  Example example(2000, 3, 6, 1, 9);
  const float still[] = {0, 0};
  const double loss = Trainer(false)->Train(still, example.groups, example.trained).value();
  double expected = 0;
  const int32_t* center = example.centers.data();
  for (int64_t g = 0; g < 2000; ++g) {
    for (int64_t i = 0; i < example.sizes[g]; ++i, ++center) {
      for (int64_t j = 0; j < 6; ++j) {
        const double score = example.rows[*center] * example.rows[example.targets[g * 6 + j]];
        expected += std::log1p(std::exp(j == 0 ? -score : score));
      }
    }
  }
  TFPS_CHECK(std::fabs(loss - expected) < 1e-5 * expected);
}

TFPS_TEST(GroupsWithRowsThatAreNoNumbersHaveALossThatIsNone) {
  for (CpuTarget target : SupportedCpuTargets()) {
    for (int64_t dim : {1, 100, 200}) {
      Example example(3, 4, 6, dim, 7);
      std::fill(example.rows.begin(), example.rows.end(), NAN);
      TFPS_CHECK(std::isnan(Train(&example, false, target)));
      TFPS_CHECK(std::isnan(example.row_deltas[example.centers[0] * dim]));
    }
  }
}

TFPS_TEST(GroupsOutsideTheRowsAreRefused) {
  const int32_t centers[] = {0, 6, -1}, sizes[] = {2, 1, -1}, targets[] = {0, 6, 7, 5};
  TFPS_CHECK(CheckGroups({centers, sizes, targets, 1, 2, 2}, 7).ok());
  TFPS_CHECK(CheckGroups({centers, sizes, targets, 1, 2, 3}, 7).message() ==
             "`sizes` must come to the number of centers, 3. Received: 2.");
  TFPS_CHECK(CheckGroups({centers, sizes, targets, 3, 1, 3}, 8).message() ==
             "`sizes` must be at least 0. Received: -1 for group 2.");
  TFPS_CHECK(CheckGroups({centers, sizes, targets, 2, 2, 3}, 8).message() ==
             "`centers` and `targets` must be at least 0 and below the rows, 8. Received: center -1 as element 2.");
  TFPS_CHECK(CheckGroups({centers, sizes, targets, 1, 4, 2}, 7).message() ==
             "`centers` and `targets` must be at least 0 and below the rows, 7. Received: target 7 as element 2.");
}

}  // namespace
}  // namespace tfps
