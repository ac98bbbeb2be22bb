// Hyperparameters of the row optimizers, in the order in which they come with every update.
//
// g is the gradient of a row, w the row, the rest are its slots. Formulas are those of the Keras 3 optimizers of the same
// name, restricted to the rows that have a gradient; tfps/ops/row_rules.py has them once more, as a graph.
// Every rule first decays the row: w -= w * decay, where decay is weight_decay * learning_rate and comes last.
#ifndef TFPS_OPS_CORE_ROW_RULES_H_
#define TFPS_OPS_CORE_ROW_RULES_H_

namespace tfps {

constexpr int kMaxSlots = 3;

// w -= learning_rate * g
struct SgdRule {
  static constexpr int kSlots = 0;
  float learning_rate;
  float decay;
};

// m = momentum * m - learning_rate * g;  w += nesterov > 0 ? momentum * m - learning_rate * g : m
struct MomentumRule {
  static constexpr int kSlots = 1;  // m
  float learning_rate;
  float momentum;
  float nesterov;
  float decay;
};

// a += g * g;  w -= learning_rate * g / sqrt(a + epsilon)
struct AdagradRule {
  static constexpr int kSlots = 1;  // a
  float learning_rate;
  float epsilon;
  float decay;
};

// m += (g - m) * (1 - beta_1);  v += (g * g - v) * (1 - beta_2);  w -= alpha * m / (sqrt(v) + epsilon), where
// alpha = learning_rate * sqrt(1 - beta_2 ^ step) / (1 - beta_1 ^ step). Lazy: rows without a gradient do not move, and
// `step`, counted from 1, is the optimizer's, not the row's.
struct AdamRule {
  static constexpr int kSlots = 2;  // m, v
  float learning_rate;
  float beta_1;
  float beta_2;
  float epsilon;
  float step;
  float decay;
};

// As AdamRule, but with h = max(h, v) in the place of v under the root
struct AdamAmsgradRule {
  static constexpr int kSlots = 3;  // m, v, h
  float learning_rate;
  float beta_1;
  float beta_2;
  float epsilon;
  float step;
  float decay;
};

// m += (g - m) * (1 - beta_1);  u = max(beta_2 * u, |g|);  w -= learning_rate / (1 - beta_1 ^ step) * m / (u + epsilon)
struct AdamaxRule {
  static constexpr int kSlots = 2;  // m, u
  float learning_rate;
  float beta_1;
  float beta_2;
  float epsilon;
  float step;
  float decay;
};

// m and v as in AdamRule;  w -= learning_rate * (next * m / (1 - product * next) + (1 - now) * g / (1 - product)) /
// (sqrt(v / (1 - beta_2 ^ step)) + epsilon), where now = beta_1 * (1 - 0.96 ^ step / 2), next is that of step + 1, and
// product is that of all steps' `now` up to this one. (Keras keeps it in a variable; workers could not add that up.)
struct NadamRule {
  static constexpr int kSlots = 2;  // m, v
  float learning_rate;
  float beta_1;
  float beta_2;
  float epsilon;
  float step;
  float decay;
};

// w -= learning_rate * sign(beta_1 * m + (1 - beta_1) * g);  then m = beta_2 * m + (1 - beta_2) * g
struct LionRule {
  static constexpr int kSlots = 1;  // m
  float learning_rate;
  float beta_1;
  float beta_2;
  float decay;
};

// a = rho * a + (1 - rho) * g * g;  d = sqrt(x + epsilon) * g / sqrt(a + epsilon);  x = rho * x + (1 - rho) * d * d;
// w -= learning_rate * d
struct AdadeltaRule {
  static constexpr int kSlots = 2;  // a, x
  float learning_rate;
  float rho;
  float epsilon;
  float decay;
};

// v += (g * g - v) * (1 - rho);  w -= learning_rate * g / sqrt(v + epsilon)
struct RmspropRule {
  static constexpr int kSlots = 1;  // v
  float learning_rate;
  float rho;
  float epsilon;
  float decay;
};

// As RmspropRule up to d = learning_rate * g / sqrt(v + epsilon);  then p = momentum * p + d;  w -= p
struct RmspropMomentumRule {
  static constexpr int kSlots = 2;  // v, p
  float learning_rate;
  float rho;
  float epsilon;
  float momentum;
  float decay;
};

// As RmspropRule, but first c += (g - c) * (1 - rho), and v - c * c + epsilon under the root
struct RmspropCenteredRule {
  static constexpr int kSlots = 2;  // v, c
  float learning_rate;
  float rho;
  float epsilon;
  float decay;
};

// Both of these: d as in RmspropCenteredRule, what becomes of it as in RmspropMomentumRule
struct RmspropMomentumCenteredRule {
  static constexpr int kSlots = 3;  // v, p, c
  float learning_rate;
  float rho;
  float epsilon;
  float momentum;
  float decay;
};

// b = a + g * g;  z += g + 2 * l2_shrinkage * w - (b^p - a^p) / learning_rate * w, where p = -learning_rate_power;
// w = (clip(z, -l1, l1) - z) / (b^p / learning_rate + 2 * l2 + beta / learning_rate);  a = b
struct FtrlRule {
  static constexpr int kSlots = 2;  // a, z
  float learning_rate;
  float learning_rate_power;
  float l1;
  float l2;
  float l2_shrinkage;
  float beta;
  float decay;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROW_RULES_H_
