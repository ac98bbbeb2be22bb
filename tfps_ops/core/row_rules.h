// What the rules of rules/*.inc look like from outside: names, numbers and slots, without the formulas.
//
// A rule is one optimizer's update of one row. g is the gradient of the row, w the row, the other letters are its slots.
// The formulas are those of the Keras 3 optimizers of the same name, for the rows that have a gradient alone;
// tfps/ops/rules/ has them once more, as graphs, and tests hold the two equal.
#ifndef TFPS_OPS_CORE_ROW_RULES_H_
#define TFPS_OPS_CORE_ROW_RULES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace tfps {

// Bounds on what a rule may have, checked when it is compiled.
constexpr int kMaxSlots = 3;
constexpr int kMaxHyperparameters = 8;

// One rule. The texts are static, and lists in them are separated by ", ".
struct RowRule {
  const char* name;             // "adagrad"
  const char* hyperparameters;  // "learning_rate, epsilon", in the order in which they come with every update; the decay
                                // (weight_decay * learning_rate), which every rule takes last, is not named
  const char* slots;            // slots that have a float for each float of the table: "accumulator"
  const char* row_slots;        // slots that have one float for each row; they come after the others
  int hyperparameter_count;     // the decay included
  int wide_slot_count;          // of `slots`
  int row_slot_count;           // of `row_slots`

  int slot_count() const { return wide_slot_count + row_slot_count; }

  // Floats of a row of slot number `slot`, for a table with rows of `dim` floats.
  int64_t SlotWidth(int slot, int64_t dim) const { return slot < wide_slot_count ? dim : 1; }
};

// Every rule, each once.
std::vector<RowRule> RowRules();

// Their names for messages: "sgd, momentum, ...".
std::string RowRuleNames();

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROW_RULES_H_
