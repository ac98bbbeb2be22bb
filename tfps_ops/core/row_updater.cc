#include "tfps_ops/core/row_updater.h"

#include <cmath>
#include <cstring>

namespace tfps {
namespace {

// Does once for an update what would be the same for every row.
template <class Rule>
void Prepare(Rule*) {}

// The learning rate takes up the bias correction. In doubles: 1 - 0.999 has few digits left as a float.
void Prepare(AdamRule* rule) {
  const double first = 1 - std::pow(double{rule->beta_1}, double{rule->step});
  const double second = 1 - std::pow(double{rule->beta_2}, double{rule->step});
  rule->learning_rate = static_cast<float>(rule->learning_rate * std::sqrt(second) / first);
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
  if (rule == "rmsprop") return Make(kernels.rmsprop);
  if (rule == "rmsprop_momentum") return Make(kernels.rmsprop_momentum);
  if (rule == "rmsprop_centered") return Make(kernels.rmsprop_centered);
  if (rule == "rmsprop_momentum_centered") return Make(kernels.rmsprop_momentum_centered);
  if (rule == "ftrl") return Make(kernels.ftrl);
  return nullptr;
}

}  // namespace tfps
