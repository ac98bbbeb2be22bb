// Every rule of rules/*.inc against its formula in double precision, step after step: the C++ loops have no other twin here,
// and a wrong sign or a slot mistaken for another would show within a few steps.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

// One element: w is the weight, s its slots.
struct Element {
  double w;
  double s[kMaxSlots];
};

// Updates one element for the gradient g, whose measure is q; `h` are the hyperparameters before the decay.
using Formula = std::function<void(const std::vector<double>& h, double g, double q, Element* e)>;

// The measure of one gradient.
double MeasureOf(const std::string& rule, double g) { return rule == "adamax" ? std::fabs(g) : g * g; }

double Adam(const std::vector<double>& h, double g, double q, Element* e) {
  e->s[0] = h[1] * e->s[0] + (1 - h[1]) * g;
  e->s[1] = h[2] * e->s[1] + (1 - h[2]) * q;
  return h[0] * std::sqrt(1 - std::pow(h[2], h[4])) / (1 - std::pow(h[1], h[4]));
}

void Nadam(const std::vector<double>& h, double g, double q, Element* e) {
  Adam(h, g, q, e);
  const auto momentum = [&](double step) { return h[1] * (1 - 0.5 * std::pow(0.96, step)); };
  double product = 1;
  for (int step = 1; step <= h[4]; ++step) product *= momentum(step);
  const double now = momentum(h[4]), next = momentum(h[4] + 1);
  const double m = next * e->s[0] / (1 - product * next) + (1 - now) * g / (1 - product);
  e->w -= h[0] * m / (std::sqrt(e->s[1] / (1 - std::pow(h[2], h[4]))) + h[3]);
}

// The step of RMSprop before momentum; the average of the gradient is slot `average`, -1 where the rule is not centered.
double Rmsprop(const std::vector<double>& h, double g, double q, int average, Element* e) {
  e->s[0] = h[1] * e->s[0] + (1 - h[1]) * q;
  double mean = 0;
  if (average >= 0) mean = e->s[average] = h[1] * e->s[average] + (1 - h[1]) * g;
  return h[0] * g / std::sqrt(e->s[0] - mean * mean + h[2]);
}

void Ftrl(const std::vector<double>& h, double g, double q, Element* e) {
  const double rate = h[0], power = -h[1], l1 = h[2], l2 = h[3] + h[5] / (2 * rate), shrinkage = h[4];
  const double before = std::pow(e->s[0], power), after = std::pow(e->s[0] + q, power);
  e->s[1] += g + 2 * shrinkage * e->w - (after - before) / rate * e->w;
  e->s[0] += q;
  e->w = (std::max(-l1, std::min(l1, e->s[1])) - e->s[1]) / (after / rate + 2 * l2);
}

struct Case {
  std::vector<float> hyper;  // without the decay
  Formula formula;
};

const std::map<std::string, Case>& Cases() {
  using H = const std::vector<double>&;
  static const std::map<std::string, Case> cases = {
      {"sgd", {{0.1f}, [](H h, double g, double, Element* e) { e->w -= h[0] * g; }}},
      {"momentum",
       {{0.1f, 0.9f, 1.0f},
        [](H h, double g, double, Element* e) {
          e->s[0] = h[1] * e->s[0] - h[0] * g;
          e->w += h[1] * e->s[0] - h[0] * g;  // nesterov
        }}},
      {"adagrad",
       {{0.1f, 1e-3f},
        [](H h, double g, double q, Element* e) {
          e->s[0] += q;
          e->w -= h[0] * g / std::sqrt(e->s[0] + h[1]);
        }}},
      {"adam",
       {{0.1f, 0.9f, 0.99f, 1e-3f, 3},
        [](H h, double g, double q, Element* e) {
          const double rate = Adam(h, g, q, e);
          e->w -= rate * e->s[0] / (std::sqrt(e->s[1]) + h[3]);
        }}},
      {"adam_amsgrad",
       {{0.1f, 0.9f, 0.9f, 1e-3f, 3},
        [](H h, double g, double q, Element* e) {
          const double rate = Adam(h, g, q, e);
          e->s[2] = std::max(e->s[2], e->s[1]);
          e->w -= rate * e->s[0] / (std::sqrt(e->s[2]) + h[3]);
        }}},
      {"adamax",
       {{0.1f, 0.9f, 0.8f, 1e-3f, 3},
        [](H h, double g, double q, Element* e) {
          e->s[0] = h[1] * e->s[0] + (1 - h[1]) * g;
          e->s[1] = std::max(h[2] * e->s[1], q);
          e->w -= h[0] / (1 - std::pow(h[1], h[4])) * e->s[0] / (e->s[1] + h[3]);
        }}},
      {"nadam", {{0.1f, 0.9f, 0.99f, 1e-3f, 3}, Nadam}},
      {"lion",
       {{0.1f, 0.9f, 0.99f},
        [](H h, double g, double, Element* e) {
          const double direction = h[1] * e->s[0] + (1 - h[1]) * g;
          e->w -= h[0] * ((direction > 0) - (direction < 0));
          e->s[0] = h[2] * e->s[0] + (1 - h[2]) * g;
        }}},
      {"adadelta",
       {{0.1f, 0.9f, 1e-3f},
        [](H h, double g, double q, Element* e) {
          e->s[0] = h[1] * e->s[0] + (1 - h[1]) * q;
          const double scale = std::sqrt(e->s[1] + h[2]) / std::sqrt(e->s[0] + h[2]);
          e->s[1] = h[1] * e->s[1] + (1 - h[1]) * scale * scale * q;
          e->w -= h[0] * scale * g;
        }}},
      {"rmsprop", {{0.1f, 0.9f, 1e-3f}, [](H h, double g, double q, Element* e) { e->w -= Rmsprop(h, g, q, -1, e); }}},
      {"rmsprop_centered", {{0.1f, 0.9f, 1e-2f}, [](H h, double g, double q, Element* e) { e->w -= Rmsprop(h, g, q, 1, e); }}},
      {"rmsprop_momentum",
       {{0.1f, 0.9f, 1e-3f, 0.5f},
        [](H h, double g, double q, Element* e) {
          e->s[1] = h[3] * e->s[1] + Rmsprop(h, g, q, -1, e);
          e->w -= e->s[1];
        }}},
      {"rmsprop_momentum_centered",
       {{0.1f, 0.9f, 1e-2f, 0.5f},
        [](H h, double g, double q, Element* e) {
          e->s[1] = h[3] * e->s[1] + Rmsprop(h, g, q, 2, e);
          e->w -= e->s[1];
        }}},
      {"ftrl", {{0.1f, -0.5f, 0.01f, 0.02f, 0.03f, 0.1f}, Ftrl}},
  };
  return cases;
}

// Where a slot begins: accumulators of squares above 0, because their root is divided by.
float FirstSlotValue(const std::string& rule, int slot) {
  return slot == 0 && (rule == "adagrad" || rule == "ftrl") ? 0.1f : 0.0f;
}

// A table of `rows` with the elements of the twin beside it.
struct Table {
  std::vector<std::vector<float>> buffers;  // the rows, then the slots
  std::vector<Element> slow;
  RowBlock block;

  Table(const std::string& rule, int64_t rows, int64_t dim, Random* random) {
    buffers.push_back(random->Floats(rows * dim));
    for (int s = 0; s < kMaxSlots; ++s) buffers.emplace_back(rows * dim, FirstSlotValue(rule, s));
    for (int64_t i = 0; i < rows * dim; ++i) {
      slow.push_back({buffers[0][i], {buffers[1][i], buffers[2][i], buffers[3][i]}});
    }
    block.table = buffers[0].data();
    for (int s = 0; s < kMaxSlots; ++s) block.slots[s] = buffers[1 + s].data();
    block.dim = dim;
  }
};

// Each row has one gradient, or with `repeats` two, of which the rule gets the sum and the summed measures for every third row.
void CheckRule(const std::string& name, const Case& c, int64_t dim, float decay, bool repeats) {
  const int64_t rows = 12;
  Random random(dim);
  Table table(name, rows, dim, &random);
  const auto updater = ValueOf(MakeRowUpdater(name));
  std::vector<float> hyper = c.hyper;
  hyper.push_back(decay);
  TFPS_CHECK(updater->hyperparameters() == static_cast<int>(hyper.size()));
  const std::vector<double> numbers(c.hyper.begin(), c.hyper.end());
  for (int step = 0; step < 5; ++step) {
    // Every other row, another half each time.
    std::vector<int64_t> touched;
    for (int64_t r = step % 2; r < rows; r += 2) touched.push_back(r);
    const std::vector<float> gradients = random.Floats(touched.size() * dim);
    std::vector<double> slow_measures(gradients.size());
    std::vector<float> measures(gradients.size());
    std::vector<const float*> measures_of(touched.size());
    for (size_t i = 0; i < gradients.size(); ++i) {
      // As of two gradients of 3 / 4 and 1 / 4 of the sum.
      const bool two = repeats && (i / dim) % 3 == 1;
      slow_measures[i] = two ? MeasureOf(name, 0.75 * gradients[i]) + MeasureOf(name, 0.25 * gradients[i])
                             : MeasureOf(name, gradients[i]);
      measures[i] = static_cast<float>(slow_measures[i]);
      measures_of[i / dim] = two ? &measures[i / dim * dim] : nullptr;
    }
    table.block.rows = touched.data();
    table.block.gradients = gradients.data();
    table.block.measures = repeats ? measures_of.data() : nullptr;
    table.block.count = touched.size();
    updater->Apply(hyper.data(), table.block, InThreads);
    for (size_t i = 0; i < touched.size() * dim; ++i) {
      Element& e = table.slow[touched[i / dim] * dim + i % dim];
      e.w -= e.w * decay;
      c.formula(numbers, gradients[i], slow_measures[i], &e);
    }
  }
  for (int64_t i = 0; i < rows * dim; ++i) {
    const Element& e = table.slow[i];
    TFPS_CHECK(std::fabs(table.buffers[0][i] - e.w) < 2e-4 * (1 + std::fabs(e.w)));
    for (int s = 0; s < updater->slots(); ++s) {
      TFPS_CHECK(std::fabs(table.buffers[1 + s][i] - e.s[s]) < 2e-4 * (1 + std::fabs(e.s[s])));
    }
  }
}

TFPS_TEST(RulesEqualTheirFormulas) {
  for (const auto& [name, c] : Cases()) {
    for (int64_t dim : {1, 5, 16, 19}) {
      for (float decay : {0.0f, 0.02f}) CheckRule(name, c, dim, decay, false);
      // A centered rule takes the root of a negative number then, and Python refuses it.
      if (name.find("centered") == std::string::npos) CheckRule(name, c, dim, 0.02f, true);
    }
  }
}

TFPS_TEST(EveryRuleWithSlotsAsWideAsItsTableHasAFormulaHere) {
  // Rules with a number for each row depend on where a row ends, and are tested by themselves.
  for (const RowRule& rule : RowRules()) TFPS_CHECK(rule.row_slot_count > 0 || Cases().count(rule.name) == 1);
}

TFPS_TEST(AnUpdateOfNoRowsChangesNothing) {
  for (const auto& [name, c] : Cases()) {
    std::vector<float> hyper = c.hyper;
    hyper.push_back(0.5f);
    Random random(1);
    Table table(name, 3, 4, &random);
    const auto before = table.buffers;
    ValueOf(MakeRowUpdater(name))->Apply(hyper.data(), table.block, InThreads);
    TFPS_CHECK(table.buffers == before);
  }
}

TFPS_TEST(AnUpdateInPartsEqualsAnUpdateInOne) {
  // Rows do not mix, so that any split of an update over messages comes to the same bits.
  for (const auto& [name, c] : Cases()) {
    const int64_t rows = 20, dim = 7;
    std::vector<float> hyper = c.hyper;
    hyper.push_back(0.01f);
    Random random(2), same(2);
    Table whole(name, rows, dim, &random), parts(name, rows, dim, &same);
    const std::vector<float> gradients = random.Floats(rows * dim);
    std::vector<int64_t> all(rows);
    for (int64_t i = 0; i < rows; ++i) all[i] = (i * 7) % rows;
    const auto updater = ValueOf(MakeRowUpdater(name));
    const auto update = [&](Table* table, int64_t begin, int64_t end) {
      table->block.rows = all.data() + begin;
      table->block.gradients = gradients.data() + begin * dim;
      table->block.count = end - begin;
      updater->Apply(hyper.data(), table->block, InCallersThread);
    };
    update(&whole, 0, rows);
    for (int64_t begin : {0, 1, 8, 13}) update(&parts, begin, begin == 0 ? 1 : begin == 1 ? 8 : begin == 8 ? 13 : rows);
    TFPS_CHECK(whole.buffers == parts.buffers);
  }
}

TFPS_TEST(RowwiseAdagradSharesOneAccumulatorARow) {
  // a += mean(g * g) over the row;  w -= learning_rate / sqrt(a + epsilon) * g
  for (CpuTarget target : SupportedCpuTargets()) {
    const auto updater = ValueOf(MakeRowUpdater("rowwise_adagrad", target));
    for (int64_t dim : {1, 3, 16, 17, 40}) {
      TFPS_CHECK(updater->slots() == 1 && updater->SlotWidth(0, dim) == 1);
      Random random(dim);
      const int64_t rows = 6;
      // The accumulators in a buffer of exactly one float a row: a sanitizer sees an update that takes it for a wide slot.
      std::vector<float> table = random.Floats(rows * dim), accumulators(rows, 0.5f);
      accumulators.shrink_to_fit();
      std::vector<double> slow(table.begin(), table.end()), slow_accumulators(rows, 0.5);
      const std::vector<int64_t> touched = {4, 0, 5};
      const float hyper[] = {0.1f, 1e-3f, 0.02f};
      for (int step = 0; step < 4; ++step) {
        const std::vector<float> gradients = random.Floats(touched.size() * dim);
        RowBlock block;
        block.table = table.data();
        block.slots[0] = accumulators.data();
        block.rows = touched.data();
        block.gradients = gradients.data();
        block.count = touched.size();
        block.dim = dim;
        updater->Apply(hyper, block, InThreads);
        for (size_t k = 0; k < touched.size(); ++k) {
          double squares = 0;
          for (int64_t j = 0; j < dim; ++j) squares += double{gradients[k * dim + j]} * gradients[k * dim + j];
          double& a = slow_accumulators[touched[k]];
          a += squares / dim;
          for (int64_t j = 0; j < dim; ++j) {
            double& w = slow[touched[k] * dim + j];
            w -= w * 0.02f;
            w -= 0.1f / std::sqrt(a + 1e-3f) * gradients[k * dim + j];
          }
        }
      }
      for (int64_t i = 0; i < rows * dim; ++i) TFPS_CHECK(std::fabs(table[i] - slow[i]) < 1e-4 * (1 + std::fabs(slow[i])));
      for (int64_t r = 0; r < rows; ++r) TFPS_CHECK(std::fabs(accumulators[r] - slow_accumulators[r]) < 1e-4);
    }
  }
}

TFPS_TEST(ThreadsMayUpdateDifferentRowsByOneUpdater) {
  const auto adam = ValueOf(MakeRowUpdater("adam"));
  const int64_t rows = 64, dim = 20;
  const std::vector<float> hyper = {0.1f, 0.9f, 0.99f, 1e-3f, 3, 0.01f};
  Random random(3), same(3);
  Table one("adam", rows, dim, &random), many("adam", rows, dim, &same);
  const std::vector<float> gradients = random.Floats(rows * dim);
  std::vector<int64_t> all(rows);
  for (int64_t i = 0; i < rows; ++i) all[i] = i;
  const auto part = [&](const Table& table, int64_t begin, int64_t end) {
    RowBlock block = table.block;
    block.rows = all.data() + begin;
    block.gradients = gradients.data() + begin * dim;
    block.count = end - begin;
    adam->Apply(hyper.data(), block, InCallersThread);
  };
  part(one, 0, rows);
  std::vector<std::thread> threads;
  for (int64_t begin = 0; begin < rows; begin += 16) threads.emplace_back([&, begin] { part(many, begin, begin + 16); });
  for (std::thread& thread : threads) thread.join();
  TFPS_CHECK(one.buffers == many.buffers);
}

TFPS_TEST(ADecayOfZeroLeavesRowsThatAreNoNumbersAlone) {
  // Decay is left out where it is 0: w - w * 0 would turn an infinite weight into no number.
  std::vector<float> w = {INFINITY, 1.0f};
  const int64_t row = 0;
  const float gradients[] = {0.0f, 0.0f}, hyper[] = {0.1f, 0.0f};
  RowBlock block;
  block.table = w.data();
  block.rows = &row;
  block.gradients = gradients;
  block.count = 1;
  block.dim = 2;
  for (CpuTarget target : SupportedCpuTargets()) ValueOf(MakeRowUpdater("sgd", target))->Apply(hyper, block, InCallersThread);
  TFPS_CHECK(std::isinf(w[0]) && w[1] == 1.0f);
}

}  // namespace
}  // namespace tfps
