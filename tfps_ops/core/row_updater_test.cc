#include "tfps_ops/core/row_updater.h"

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

const std::map<std::string, std::vector<float>> kRules = {
    {"sgd", {0.1f, 0.01f}},
    {"momentum", {0.1f, 0.9f, 1.0f, 0.01f}},
    {"adagrad", {0.1f, 1e-3f, 0.01f}},
    {"adam", {0.1f, 0.9f, 0.99f, 1e-3f, 3.0f, 0.01f}},
    {"adam_amsgrad", {0.1f, 0.9f, 0.99f, 1e-3f, 3.0f, 0.01f}},
    {"adamax", {0.1f, 0.9f, 0.99f, 1e-3f, 3.0f, 0.01f}},
    {"nadam", {0.1f, 0.9f, 0.99f, 1e-3f, 3.0f, 0.01f}},
    {"lion", {0.1f, 0.9f, 0.99f, 0.01f}},
    {"adadelta", {0.1f, 0.9f, 1e-3f, 0.01f}},
    {"rmsprop", {0.1f, 0.9f, 1e-3f, 0.0f}},
    {"rmsprop_momentum", {0.1f, 0.9f, 1e-3f, 0.5f, 0.01f}},
    {"rmsprop_centered", {0.1f, 0.9f, 1e-3f, 0.01f}},
    {"rmsprop_momentum_centered", {0.1f, 0.9f, 1e-3f, 0.5f, 0.01f}},
    {"ftrl", {0.1f, -0.5f, 0.01f, 0.02f, 0.03f, 0.1f, 0.01f}},
};

constexpr int64_t kRows = 40;

// A table, its slots, and an update of some of its rows, in buffers of exactly their sizes.
struct Example {
  std::vector<std::vector<float>> variables;
  std::vector<int64_t> rows;
  std::vector<float> gradients;
  RowBlock block;

  Example(int64_t dim, int64_t count, int seed) {
    Random random(seed);
    variables.assign(1 + kMaxSlots, random.Floats(kRows * dim));
    // Where a slot stands for a sum of squares it is positive, and larger than the square of an average.
    for (int i = 1; i <= kMaxSlots; ++i) {
      for (float& f : variables[i]) f = i == 1 ? 2 + std::fabs(f) : 0.1f * f + (i == 2 ? 0.5f : 0.0f);
    }
    rows.resize(kRows);
    std::iota(rows.begin(), rows.end(), 0);
    for (int64_t i = kRows - 1; i > 0; --i) std::swap(rows[i], rows[random.Integer(0, i)]);
    rows.resize(count);
    rows.shrink_to_fit();
    gradients = random.Floats(count * dim);
    block.table = variables[0].data();
    for (int i = 0; i < kMaxSlots; ++i) block.slots[i] = variables[i + 1].data();
    block.rows = rows.data();
    block.gradients = gradients.data();
    block.count = count;
    block.dim = dim;
  }
};

TFPS_TEST(EveryCpuTargetAndAnyNumberOfThreadsGiveTheSameBits) {
  for (const auto& [name, hyper] : kRules) {
    for (int64_t dim : {1, 3, 4, 7, 8, 10, 16, 17, 31, 64}) {
      Example expected(dim, 25, 7);
      const auto baseline = MakeRowUpdater(name, CpuTarget::kBaseline);
      TFPS_CHECK(baseline->hyperparameters() == static_cast<int>(hyper.size()));
      baseline->Apply(hyper.data(), expected.block, InCallersThread);
      for (CpuTarget target : SupportedCpuTargets()) {
        Example got(dim, 25, 7);
        MakeRowUpdater(name, target)->Apply(hyper.data(), got.block, InThreads);
        for (int v = 0; v <= baseline->slots(); ++v) {
          TFPS_CHECK(!std::memcmp(got.variables[v].data(), expected.variables[v].data(), kRows * dim * sizeof(float)));
        }
      }
    }
  }
}

TFPS_TEST(RowsWithoutAGradientAndSlotsOfOtherRulesStay) {
  for (const auto& [name, hyper] : kRules) {
    const auto updater = MakeRowUpdater(name);
    Example before(5, 10, 8), after(5, 10, 8);
    updater->Apply(hyper.data(), after.block, InCallersThread);
    std::vector<bool> touched(kRows);
    for (int64_t row : after.rows) touched[row] = true;
    for (int v = 0; v <= kMaxSlots; ++v) {
      for (int64_t i = 0; i < kRows * 5; ++i) {
        const bool may_change = touched[i / 5] && v <= updater->slots();
        TFPS_CHECK((before.variables[v][i] != after.variables[v][i]) == may_change);
      }
    }
  }
}

TFPS_TEST(HandComputedRows) {
  float w = 1.0f, slot = 3.0f, other = 0.0f;
  const int64_t row = 0;
  const float gradient = 1.0f;
  RowBlock block;
  block.table = &w;
  block.slots[0] = &slot;
  block.slots[1] = &other;
  block.rows = &row;
  block.gradients = &gradient;
  block.count = block.dim = 1;
  const float sgd[] = {0.5f, 0.25f};  // w = 1 - 1 * 0.25 - 0.5 * 1
  MakeRowUpdater("sgd")->Apply(sgd, block, InCallersThread);
  TFPS_CHECK(w == 0.25f);
  const float adagrad[] = {0.5f, 0.0f, 0.0f};  // a = 3 + 1, w = 0.25 - 0.5 / 2
  MakeRowUpdater("adagrad")->Apply(adagrad, block, InCallersThread);
  TFPS_CHECK(slot == 4.0f && w == 0.0f);
  slot = 0;
  const float adam[] = {0.5f, 0.5f, 0.75f, 0.0f, 1.0f, 0.0f};  // m = 1/2, v = 1/4, alpha = 1/2 * (1/2) / (1/2), w = -1/2
  MakeRowUpdater("adam")->Apply(adam, block, InCallersThread);
  TFPS_CHECK(slot == 0.5f && other == 0.25f && w == -0.5f);
  const float lion[] = {0.5f, 0.5f, 0.75f, 0.0f};  // w = -1/2 - 1/2 * sign(1/4 + 1/2), m = 3/4 * 1/2 + 1/4
  MakeRowUpdater("lion")->Apply(lion, block, InCallersThread);
  TFPS_CHECK(slot == 0.625f && w == -1.0f);
  slot = 0;
  const float adamax[] = {0.5f, 0.5f, 0.5f, 0.0f, 1.0f, 0.0f};  // m = 1/2, u = 1, w = -1 - 1/2 / (1/2) * 1/2
  MakeRowUpdater("adamax")->Apply(adamax, block, InCallersThread);
  TFPS_CHECK(slot == 0.5f && other == 1.0f && w == -1.5f);
  slot = 0, other = 4;
  const float adadelta[] = {0.5f, 0.75f, 0.0f, 0.0f};  // a = 1/4, d = 2 / (1/2), x = 3 + 1/4 * 16, w = -3/2 - 1/2 * 4
  MakeRowUpdater("adadelta")->Apply(adadelta, block, InCallersThread);
  TFPS_CHECK(slot == 0.25f && other == 7.0f && w == -3.5f);
}

TFPS_TEST(AnUnknownRuleIsNull) { TFPS_CHECK(MakeRowUpdater("lamb") == nullptr); }

}  // namespace
}  // namespace tfps
