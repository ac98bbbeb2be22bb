#include "tfps_ops/core/row_updater.h"

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

// A value for every hyperparameter that a rule may name. 0.5 for what is not here: a new name gets a test without a change.
const std::map<std::string, float> kNumbers = {
    {"learning_rate", 0.1f}, {"beta_1", 0.9f}, {"beta_2", 0.99f},        {"epsilon", 1e-3f},
    {"step", 3.0f},          {"rho", 0.9f},    {"nesterov", 1.0f},       {"learning_rate_power", -0.5f},
    {"l1", 0.01f},           {"l2", 0.02f},    {"l2_shrinkage", 0.03f},  {"beta", 0.1f},
};

// "a, b" as {"a", "b"}.
std::vector<std::string> Names(const char* list) {
  std::vector<std::string> names;
  std::stringstream left(list);
  for (std::string name; std::getline(left, name, ',');) {
    names.push_back(name.substr(name[0] == ' '));
  }
  return names;
}

// The hyperparameters of a rule, and a decay. (RMSprop has none, so that the branch without is run too.)
std::vector<float> NumbersOf(const RowRule& rule) {
  std::vector<float> numbers;
  for (const std::string& name : Names(rule.hyperparameters)) {
    const auto known = kNumbers.find(name);
    numbers.push_back(known == kNumbers.end() ? 0.5f : known->second);
  }
  numbers.push_back(std::string(rule.name) == "rmsprop" ? 0.0f : 0.01f);
  return numbers;
}

constexpr int64_t kRows = 40;

// A table, its slots, and an update of some of its rows, in buffers of exactly their sizes. Slots that the rule does not have
// are there too, as wide as the table.
struct Example {
  std::vector<int64_t> widths;
  std::vector<std::vector<float>> variables;
  std::vector<int64_t> rows;
  std::vector<float> gradients;
  RowBlock block;

  Example(const RowRule& rule, int64_t dim, int64_t count, int seed) {
    Random random(seed);
    widths.assign(1 + kMaxSlots, dim);
    for (int i = 0; i < rule.slot_count(); ++i) widths[1 + i] = rule.SlotWidth(i, dim);
    for (int64_t width : widths) variables.push_back(random.Floats(kRows * width));
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

TFPS_TEST(ARuleIsDeclaredOnceAndItsCountsFitItsNames) {
  std::set<std::string> names;
  for (const RowRule& rule : RowRules()) {
    TFPS_CHECK(names.insert(rule.name).second);
    TFPS_CHECK(static_cast<int>(Names(rule.slots).size()) == rule.wide_slot_count);
    TFPS_CHECK(static_cast<int>(Names(rule.row_slots).size()) == rule.row_slot_count);
    TFPS_CHECK(static_cast<int>(NumbersOf(rule).size()) == rule.hyperparameter_count);
    const auto updater = ValueOf(MakeRowUpdater(rule.name));
    TFPS_CHECK(updater->slots() == rule.slot_count() && updater->hyperparameters() == rule.hyperparameter_count);
    for (int i = 0; i < rule.slot_count(); ++i) {
      TFPS_CHECK(updater->SlotWidth(i, 7) == (i < rule.wide_slot_count ? 7 : 1));
    }
    TFPS_CHECK(RowRuleNames().find(rule.name) != std::string::npos);
  }
  TFPS_CHECK(names.size() >= 14);
}

TFPS_TEST(EveryCpuTargetAndAnyNumberOfThreadsGiveTheSameBits) {
  for (const RowRule& rule : RowRules()) {
    const std::vector<float> hyper = NumbersOf(rule);
    for (int64_t dim : {1, 3, 4, 7, 8, 10, 16, 17, 31, 64}) {
      Example expected(rule, dim, 25, 7);
      ValueOf(MakeRowUpdater(rule.name, CpuTarget::kBaseline))->Apply(hyper.data(), expected.block, InCallersThread);
      for (CpuTarget target : SupportedCpuTargets()) {
        Example got(rule, dim, 25, 7);
        ValueOf(MakeRowUpdater(rule.name, target))->Apply(hyper.data(), got.block, InThreads);
        for (int v = 0; v <= rule.slot_count(); ++v) {
          const size_t bytes = kRows * got.widths[v] * sizeof(float);
          TFPS_CHECK(!std::memcmp(got.variables[v].data(), expected.variables[v].data(), bytes));
        }
      }
    }
  }
}

TFPS_TEST(PreparedOnceRowsThatLieAnywhereAreUpdatedAsInAMatrix) {
  const int64_t zero = 0;
  for (const RowRule& rule : RowRules()) {
    std::vector<float> hyper = NumbersOf(rule);
    const auto updater = ValueOf(MakeRowUpdater(rule.name));
    Example expected(rule, 11, 25, 12), got(rule, 11, 25, 12);
    updater->Apply(hyper.data(), expected.block, InCallersThread);
    updater->Prepare(hyper.data());
    for (int64_t k = 0; k < 25; ++k) {
      RowBlock row = got.block;
      row.table += got.rows[k] * 11;
      for (int s = 0; s < rule.slot_count(); ++s) row.slots[s] += got.rows[k] * got.widths[1 + s];
      row.rows = &zero;
      row.gradients += k * 11;
      row.count = 1;
      updater->ApplyPrepared(hyper.data(), row);
    }
    TFPS_CHECK(got.variables == expected.variables);
  }
}

TFPS_TEST(RowsWithoutAGradientAndSlotsOfOtherRulesStay) {
  for (const RowRule& rule : RowRules()) {
    const std::vector<float> hyper = NumbersOf(rule);
    Example before(rule, 5, 10, 8), after(rule, 5, 10, 8);
    ValueOf(MakeRowUpdater(rule.name))->Apply(hyper.data(), after.block, InCallersThread);
    std::vector<bool> touched(kRows);
    for (int64_t row : after.rows) touched[row] = true;
    for (int v = 0; v <= kMaxSlots; ++v) {
      for (int64_t i = 0; i < kRows * after.widths[v]; ++i) {
        const bool may_change = touched[i / after.widths[v]] && v <= rule.slot_count();
        TFPS_CHECK((before.variables[v][i] != after.variables[v][i]) == may_change);
      }
    }
  }
}

// A loop over vectors reads several elements at once, and rows lie side by side. What is no number must not spread: a worker
// with a bad batch would ruin rows of others.
TFPS_TEST(WhatIsNoNumberStaysInItsRowOnEveryCpuTarget) {
  const float kBad[] = {std::nanf(""), HUGE_VALF, -HUGE_VALF};
  for (const RowRule& rule : RowRules()) {
    const std::vector<float> hyper = NumbersOf(rule);
    for (CpuTarget target : SupportedCpuTargets()) {
      for (int64_t dim : {1, 5, 16, 19}) {
        for (float bad : kBad) {
          constexpr int64_t kVictim = 6;  // of 12 updated rows
          Example clean(rule, dim, 12, 9), dirty(rule, dim, 12, 9);
          // The last element, next to the first of the following row.
          dirty.gradients[kVictim * dim + dim - 1] = bad;
          const auto updater = ValueOf(MakeRowUpdater(rule.name, target));
          updater->Apply(hyper.data(), clean.block, InCallersThread);
          updater->Apply(hyper.data(), dirty.block, InCallersThread);
          for (int v = 0; v <= kMaxSlots; ++v) {
            const int64_t width = clean.widths[v];
            for (int64_t row = 0; row < kRows; ++row) {
              if (row == dirty.rows[kVictim]) continue;
              const float *is = &dirty.variables[v][row * width], *should = &clean.variables[v][row * width];
              TFPS_CHECK(!std::memcmp(is, should, width * sizeof(float)));
            }
          }
        }
      }
    }
  }
}

// Where slots have one element for each of the table, not even the other elements of the row see it.
TFPS_TEST(WhatIsNoNumberStaysInItsElementWhereTheRuleWorksElementByElement) {
  for (const RowRule& rule : RowRules()) {
    if (rule.row_slot_count > 0) continue;
    const std::vector<float> hyper = NumbersOf(rule);
    Example clean(rule, 19, 12, 9), dirty(rule, 19, 12, 9);
    dirty.gradients[7] = std::nanf("");
    const auto updater = ValueOf(MakeRowUpdater(rule.name));
    updater->Apply(hyper.data(), clean.block, InCallersThread);
    updater->Apply(hyper.data(), dirty.block, InCallersThread);
    const int64_t bad = dirty.rows[0] * 19 + 7;
    for (int64_t i = 0; i < kRows * 19; ++i) {
      TFPS_CHECK(i == bad || dirty.variables[0][i] == clean.variables[0][i]);
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
  ValueOf(MakeRowUpdater("sgd"))->Apply(sgd, block, InCallersThread);
  TFPS_CHECK(w == 0.25f);
  const float adagrad[] = {0.5f, 0.0f, 0.0f};  // a = 3 + 1, w = 0.25 - 0.5 / 2
  ValueOf(MakeRowUpdater("adagrad"))->Apply(adagrad, block, InCallersThread);
  TFPS_CHECK(slot == 4.0f && w == 0.0f);
  slot = 0;
  const float adam[] = {0.5f, 0.5f, 0.75f, 0.0f, 1.0f, 0.0f};  // m = 1/2, v = 1/4, alpha = 1/2 * (1/2) / (1/2), w = -1/2
  ValueOf(MakeRowUpdater("adam"))->Apply(adam, block, InCallersThread);
  TFPS_CHECK(slot == 0.5f && other == 0.25f && w == -0.5f);
  const float lion[] = {0.5f, 0.5f, 0.75f, 0.0f};  // w = -1/2 - 1/2 * sign(1/4 + 1/2), m = 3/4 * 1/2 + 1/4
  ValueOf(MakeRowUpdater("lion"))->Apply(lion, block, InCallersThread);
  TFPS_CHECK(slot == 0.625f && w == -1.0f);
  slot = 0;
  const float adamax[] = {0.5f, 0.5f, 0.5f, 0.0f, 1.0f, 0.0f};  // m = 1/2, u = 1, w = -1 - 1/2 / (1/2) * 1/2
  ValueOf(MakeRowUpdater("adamax"))->Apply(adamax, block, InCallersThread);
  TFPS_CHECK(slot == 0.5f && other == 1.0f && w == -1.5f);
  slot = 0, other = 4;
  const float adadelta[] = {0.5f, 0.75f, 0.0f, 0.0f};  // a = 1/4, d = 2 / (1/2), x = 3 + 1/4 * 16, w = -3/2 - 1/2 * 4
  ValueOf(MakeRowUpdater("adadelta"))->Apply(adadelta, block, InCallersThread);
  TFPS_CHECK(slot == 0.25f && other == 7.0f && w == -3.5f);
}

TFPS_TEST(ARowWithOneAccumulatorIsHandComputed) {
  float w[] = {1.0f, 2.0f, 0.0f, 0.0f}, accumulators[] = {9.0f, 4.0f};
  const float gradient[] = {4.0f, 2.0f};  // mean of the squares: (16 + 4) / 2
  const int64_t row = 0;
  RowBlock block;
  block.table = w;
  block.slots[0] = accumulators;
  block.rows = &row;
  block.gradients = gradient;
  block.count = 1;
  block.dim = 2;
  const float numbers[] = {0.5f, 6.0f, 0.0f};  // a = 9 + 10, root = sqrt(19 + 6) = 5, w -= 0.5 / 5 * g
  ValueOf(MakeRowUpdater("rowwise_adagrad"))->Apply(numbers, block, InCallersThread);
  TFPS_CHECK(accumulators[0] == 19.0f && accumulators[1] == 4.0f);
  TFPS_CHECK(std::fabs(w[0] - 0.6f) < 1e-6f && std::fabs(w[1] - 1.8f) < 1e-6f && w[2] == 0.0f);
}

TFPS_TEST(AnUnknownRuleIsRefusedAndTheOthersAreNamed) {
  const Status status = MakeRowUpdater("lamb").status();
  TFPS_CHECK(status.code() == StatusCode::kInvalidArgument);
  TFPS_CHECK(status.message().find("Received: lamb. Valid: ") != std::string::npos);
  for (const RowRule& rule : RowRules()) TFPS_CHECK(status.message().find(rule.name) != std::string::npos);
}

}  // namespace
}  // namespace tfps
