// The adapter from a rule's loop to RowUpdater: prepares the numbers once, then splits the rows over threads.
#include "tfps_ops/core/row_updater.h"

#include <cstring>

namespace tfps {
namespace {

// The rows [begin, end) of a block.
RowBlock Part(const RowBlock& block, int64_t begin, int64_t end) {
  // The table stays, rows and gradients move on: threads share the matrix and nothing else.
  RowBlock part = block;
  part.rows += begin;
  part.gradients += begin * block.dim;
  if (part.measures != nullptr) part.measures += begin;
  part.count = end - begin;
  return part;
}

// One rule of a CPU target's table.
class RuleUpdater : public RowUpdater {
 public:
  explicit RuleUpdater(const RuleKernel& kernel) : kernel_(kernel) {}

  int slots() const override { return kernel_.rule.slot_count(); }

  int64_t SlotWidth(int slot, int64_t dim) const override { return kernel_.rule.SlotWidth(slot, dim); }

  int hyperparameters() const override { return kernel_.rule.hyperparameter_count; }

  void Apply(const float* hyperparameters, const RowBlock& block, const ParallelFor& parallel) const override {
    // On the stack: an update is made for each table of each message.
    float prepared[kMaxHyperparameters];
    std::memcpy(prepared, hyperparameters, kernel_.rule.hyperparameter_count * sizeof(float));
    // On a copy: the message belongs to the caller, and other tables are updated by the same numbers.
    Prepare(prepared);
    // A fetch from memory and some arithmetic for the row and for each slot.
    parallel(block.count, (20 + block.dim) * (1 + slots()),
             [&](int64_t begin, int64_t end) { ApplyPrepared(prepared, Part(block, begin, end)); });
  }

  void Prepare(float* hyperparameters) const override { kernel_.prepare(hyperparameters); }

  void ApplyPrepared(const float* prepared, const RowBlock& block) const override { kernel_.apply(prepared, block); }

 private:
  const RuleKernel& kernel_;  // of a static table
};

}  // namespace

std::vector<RowRule> RowRules() {
  const RowKernels& kernels = RowKernelsFor(CpuTarget::kBaseline);
  std::vector<RowRule> rules;
  // The baseline has all rules, as every target does.
  for (int i = 0; i < kernels.rule_count; ++i) rules.push_back(kernels.rules[i].rule);
  return rules;
}

std::string RowRuleNames() {
  // In the order of the list, which means nothing.
  std::string names;
  for (const RowRule& rule : RowRules()) names += (names.empty() ? "" : ", ") + std::string(rule.name);
  return names;
}

Result<std::unique_ptr<RowUpdater>> MakeRowUpdater(const std::string& rule, CpuTarget target) {
  const RowKernels& kernels = RowKernelsFor(target);
  for (int i = 0; i < kernels.rule_count; ++i) {
    if (rule != kernels.rules[i].rule.name) continue;
    return std::unique_ptr<RowUpdater>(std::make_unique<RuleUpdater>(kernels.rules[i]));
  }
  return InvalidArgument("`rule` must be a row optimizer's name. Received: ", rule, ". Valid: ", RowRuleNames(), ".");
}

}  // namespace tfps
