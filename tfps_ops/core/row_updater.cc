#include "tfps_ops/core/row_updater.h"

#include <cmath>
#include <cstring>

namespace tfps {
namespace {

// Does once for an update what would be the same for every row.
template <class Rule>
void Prepare(Rule*) {}

// What a moving average of so many steps that began at 0 is short by. In doubles: 1 - 0.999 has few digits left as a float.
double Correction(float decay, float step) { return 1 - std::pow(double{decay}, double{step}); }

// The learning rate takes up the bias correction.
template <class Rule>
void CorrectRate(Rule* rule) {
  const double first = Correction(rule->beta_1, rule->step), second = Correction(rule->beta_2, rule->step);
  rule->learning_rate = static_cast<float>(rule->learning_rate * std::sqrt(second) / first);
}

void Prepare(AdamRule* rule) { CorrectRate(rule); }

void Prepare(AdamAmsgradRule* rule) { CorrectRate(rule); }

void Prepare(AdamaxRule* rule) {
  rule->learning_rate = static_cast<float>(rule->learning_rate / Correction(rule->beta_1, rule->step));
}

// The fields become the factors that the loop needs, see its Step.
void Prepare(NadamRule* rule) {
  constexpr int kDecaying = 600;  // steps after which 0.96 ^ step / 2 is too small to count
  double product = std::pow(double{rule->beta_1}, double{rule->step}), power = 1;
  for (int step = 1; step <= rule->step && step <= kDecaying; ++step) product *= 1 - 0.5 * (power *= 0.96);
  const auto momentum = [rule](double step) { return rule->beta_1 * (1 - 0.5 * std::pow(0.96, step)); };
  const double now = momentum(rule->step), next = momentum(rule->step + 1.0);
  const double root = std::sqrt(Correction(rule->beta_2, rule->step)), rate = rule->learning_rate * root;
  rule->learning_rate = static_cast<float>(rate * next / (1 - product * next));
  rule->step = static_cast<float>(rate * (1 - now) / (1 - product));
  rule->epsilon = static_cast<float>(rule->epsilon * root);
}

// The rows [begin, end) of a block.
RowBlock Part(const RowBlock& block, int64_t begin, int64_t end) {
  RowBlock part = block;
  part.rows += begin;
  part.gradients += begin * block.dim;
  part.count = end - begin;
  return part;
}

template <class Rule>
class RuleUpdater : public RowUpdater {
 public:
  explicit RuleUpdater(ApplyRows<Rule> apply) : apply_(apply) {}

  int slots() const override { return Rule::kSlots; }

  int hyperparameters() const override { return sizeof(Rule) / sizeof(float); }

  void Apply(const float* hyperparameters, const RowBlock& block, const ParallelFor& parallel) const override {
    Rule rule;
    std::memcpy(&rule, hyperparameters, sizeof(rule));
    Prepare(&rule);
    // A fetch from memory and some arithmetic for the row and for each slot.
    parallel(block.count, (20 + block.dim) * (1 + Rule::kSlots),
             [&](int64_t begin, int64_t end) { apply_(rule, Part(block, begin, end)); });
  }

 private:
  const ApplyRows<Rule> apply_;
};

template <class Rule>
std::unique_ptr<RowUpdater> Make(ApplyRows<Rule> apply) {
  return std::make_unique<RuleUpdater<Rule>>(apply);
}

}  // namespace

std::unique_ptr<RowUpdater> MakeRowUpdater(const std::string& rule, CpuTarget target) {
  const RowKernels& kernels = RowKernelsFor(target);
  if (rule == "sgd") return Make(kernels.sgd);
  if (rule == "momentum") return Make(kernels.momentum);
  if (rule == "adagrad") return Make(kernels.adagrad);
  if (rule == "adam") return Make(kernels.adam);
  if (rule == "adam_amsgrad") return Make(kernels.adam_amsgrad);
  if (rule == "adamax") return Make(kernels.adamax);
  if (rule == "nadam") return Make(kernels.nadam);
  if (rule == "lion") return Make(kernels.lion);
  if (rule == "adadelta") return Make(kernels.adadelta);
  if (rule == "rmsprop") return Make(kernels.rmsprop);
  if (rule == "rmsprop_momentum") return Make(kernels.rmsprop_momentum);
  if (rule == "rmsprop_centered") return Make(kernels.rmsprop_centered);
  if (rule == "rmsprop_momentum_centered") return Make(kernels.rmsprop_momentum_centered);
  if (rule == "ftrl") return Make(kernels.ftrl);
  return nullptr;
}

}  // namespace tfps
