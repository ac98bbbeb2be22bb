// Hyperparameters of the row optimizers: plain numbers, checked by the kernels when the graph is built.
//
// g is the gradient of a row, w the row, the rest are its slots. Formulas are those of the Keras 3 optimizers of the same
// name, restricted to the rows that have a gradient. Every rule first decays the row: w -= w * weight_decay * learning_rate.
// Decay rates close to 1 are held as their distance from it: a float holds 0.001 a thousand times better than 0.999.
#ifndef TFPS_OPS_CORE_ROW_RULES_H_
#define TFPS_OPS_CORE_ROW_RULES_H_

namespace tfps {

constexpr int kMaxSlots = 3;

// What every rule has.
struct RowRule {
  float learning_rate = 0;
  float weight_decay = 0;
};

// w -= learning_rate * g
struct SgdRule : RowRule {
  static constexpr int kSlots = 0;
};

// m = momentum * m - learning_rate * g;  w += nesterov ? momentum * m - learning_rate * g : m
struct MomentumRule : RowRule {
  static constexpr int kSlots = 1;  // m
  float momentum = 0;
  bool nesterov = false;
};

// a += g * g;  w -= learning_rate * g / sqrt(a + epsilon)
struct AdagradRule : RowRule {
  static constexpr int kSlots = 1;  // a
  float epsilon = 0;
};

// m += (g - m) * (1 - beta_1);  v += (g * g - v) * (1 - beta_2);  w -= alpha * m / (sqrt(v) + epsilon), where
// alpha = learning_rate * sqrt(1 - beta_2 ^ step) / (1 - beta_1 ^ step). Lazy: rows without a gradient do not move.
struct AdamRule : RowRule {
  static constexpr int kSlots = 2;  // m, v
  float one_minus_beta_1 = 0;
  float one_minus_beta_2 = 0;
  float epsilon = 0;
  float alpha = 0;
};

// v += (g * g - v) * (1 - rho);  centered: c += (g - c) * (1 - rho), else c = 0;
// d = learning_rate * g / sqrt(v - c * c + epsilon);  with momentum: p = momentum * p + d, w -= p;  else w -= d.
// A kernel for each of the four forms, because each has other slots.
template <bool momentum_slot, bool centered_slot>
struct RmspropRule : RowRule {
  static constexpr int kSlots = 1 + momentum_slot + centered_slot;  // v, p if momentum, c if centered
  static constexpr bool kMomentum = momentum_slot;
  static constexpr bool kCentered = centered_slot;
  float one_minus_rho = 0;
  float momentum = 0;
  float epsilon = 0;
};

// b = a + g * g;  z += g + 2 * l2_shrinkage * w - (b^p - a^p) / learning_rate * w, where p = -learning_rate_power;
// w = (clip(z, -l1, l1) - z) / (b^p / learning_rate + 2 * l2 + beta / learning_rate);  a = b
struct FtrlRule : RowRule {
  static constexpr int kSlots = 2;  // a, z
  float learning_rate_power = 0;
  float l1 = 0;
  float l2 = 0;
  float l2_shrinkage = 0;
  float beta = 0;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROW_RULES_H_
