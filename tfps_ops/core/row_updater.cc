#include "tfps_ops/core/row_updater.h"

#include <cmath>

namespace tfps {
namespace {

template <class Rule>
void SetStep(const StepInputs& inputs, Rule* rule) {
  rule->learning_rate = inputs.learning_rate;
}

// 1 - beta ^ step, without the digits that 1 - pow(beta, step) loses.
double Correction(float one_minus_beta, int64_t step) {
  return -std::expm1(static_cast<double>(step) * std::log1p(-double{one_minus_beta}));
}

void SetStep(const StepInputs& inputs, AdamRule* rule) {
  rule->learning_rate = inputs.learning_rate;
  rule->alpha = static_cast<float>(inputs.learning_rate * std::sqrt(Correction(rule->one_minus_beta_2, inputs.step)) /
                                   Correction(rule->one_minus_beta_1, inputs.step));
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
  RuleUpdater(const Rule& rule, CpuTarget target) : rule_(rule), apply_(Pick(RowKernelsFor(target), rule)) {}

  int slots() const override { return Rule::kSlots; }

  void Apply(const StepInputs& inputs, const RowBlock& block, const ParallelFor& parallel) const override {
    Rule rule = rule_;
    SetStep(inputs, &rule);
    // A fetch from memory and some arithmetic for the row and for each slot.
    parallel(block.count, (20 + block.dim) * (1 + Rule::kSlots),
             [&](int64_t begin, int64_t end) { apply_(rule, Part(block, begin, end)); });
  }

 private:
  const Rule rule_;
  const ApplyRows<Rule> apply_;
};

}  // namespace

template <class Rule>
std::unique_ptr<RowUpdater> MakeRowUpdater(const Rule& rule, CpuTarget target) {
  return std::make_unique<RuleUpdater<Rule>>(rule, target);
}

template std::unique_ptr<RowUpdater> MakeRowUpdater(const SgdRule&, CpuTarget);
template std::unique_ptr<RowUpdater> MakeRowUpdater(const MomentumRule&, CpuTarget);
template std::unique_ptr<RowUpdater> MakeRowUpdater(const AdagradRule&, CpuTarget);
template std::unique_ptr<RowUpdater> MakeRowUpdater(const AdamRule&, CpuTarget);
template std::unique_ptr<RowUpdater> MakeRowUpdater(const RmspropRule<false, false>&, CpuTarget);
template std::unique_ptr<RowUpdater> MakeRowUpdater(const RmspropRule<true, false>&, CpuTarget);
template std::unique_ptr<RowUpdater> MakeRowUpdater(const RmspropRule<false, true>&, CpuTarget);
template std::unique_ptr<RowUpdater> MakeRowUpdater(const RmspropRule<true, true>&, CpuTarget);
template std::unique_ptr<RowUpdater> MakeRowUpdater(const FtrlRule&, CpuTarget);

}  // namespace tfps
