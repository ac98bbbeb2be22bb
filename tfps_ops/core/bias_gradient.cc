// One loop, compiled for each kind of CPU; the compiler turns it into vectors.
#include "tfps_ops/core/bias_gradient.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace tfps {
namespace {

// A unit of work: two cache lines of a row, so that no two threads write to one line.
constexpr int64_t kColumnsAUnit = 64;
// Nanoseconds of 100 bytes, about: from the second-level cache on it is the wait for memory.
constexpr int64_t kNanosecondsA100 = 6;

// Bits of a float32 or, as its upper half, of a bfloat16.
template <typename Bits>
constexpr int kShift = 32 - 8 * static_cast<int>(sizeof(Bits));
template <typename Bits>
constexpr Bits kInfinity = 0x7f800000u >> kShift<Bits>;
template <typename Bits>
constexpr Bits kMagnitude = 0x7fffffffu >> kShift<Bits>;
template <typename Bits>
constexpr Bits kNaN = 0x7fc00000u >> kShift<Bits>;

// What the gradient is where the result is `result`. Integers alone: a compiler may not compute a product of floats ahead of the
// branch that needs it, and branches here are mispredicted half of the time. This and `Widened` are inlined into a function of
// each target, so that they have the instructions of that target. They use nothing of the standard library, of which the linker
// might keep the copy for AVX2 for everybody.
template <typename Bits>
inline __attribute__((always_inline)) Bits Passed(Bits upstream, Bits result) {
  // Bits of numbers above 0 are 1 to those of infinity. Above them are NaN, then all that have a sign.
  const bool passes = static_cast<Bits>(result - 1) < kInfinity<Bits>;
  // TensorFlow multiplies by 0: what is not finite becomes NaN, and is not hidden.
  const Bits stopped = static_cast<Bits>(upstream & kMagnitude<Bits>) < kInfinity<Bits> ? 0 : kNaN<Bits>;
  return passes ? upstream : stopped;
}

template <typename Bits>
inline __attribute__((always_inline)) float Widened(Bits bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << kShift<Bits>;
  float value;
  __builtin_memcpy(&value, &wide, sizeof(value));
  return value;
}

// The columns [begin, end). `sums` and `block` have room for all columns, and are 0.
template <typename Bits>
inline __attribute__((always_inline)) void Columns(const ReluBiasGradient<Bits>& work, int64_t begin, int64_t end, float* sums,
                                                   float* block) {
  const int64_t width = end - begin;
  float* __restrict to = block + begin;
  float* __restrict all = sums + begin;
  for (int64_t first = 0; first < work.rows; first += kRowsABlock) {
    const int64_t last = first + kRowsABlock < work.rows ? first + kRowsABlock : work.rows;
    for (int64_t i = first; i < last; ++i) {
      const Bits* __restrict upstream = work.upstream + i * work.columns + begin;
      const Bits* __restrict results = work.results + i * work.columns + begin;
      Bits* __restrict gradient = work.gradient + i * work.columns + begin;
      for (int64_t j = 0; j < width; ++j) {
        const Bits passed = Passed(upstream[j], results[j]);
        gradient[j] = passed;
        to[j] += Widened(passed);
      }
    }
    for (int64_t j = 0; j < width; ++j) {
      all[j] += to[j];
      to[j] = 0;
    }
  }
}

template <typename Bits>
void ColumnsBaseline(const ReluBiasGradient<Bits>& work, int64_t begin, int64_t end, float* sums, float* block) {
  Columns(work, begin, end, sums, block);
}

#if defined(__x86_64__)
template <typename Bits>
__attribute__((target("avx2"))) void ColumnsAvx2(const ReluBiasGradient<Bits>& work, int64_t begin, int64_t end, float* sums,
                                                 float* block) {
  Columns(work, begin, end, sums, block);
}
#endif

template <typename Bits>
using ColumnsOf = void (*)(const ReluBiasGradient<Bits>&, int64_t, int64_t, float*, float*);

template <typename Bits>
ColumnsOf<Bits> ColumnsFor(CpuTarget target) {
#if defined(__x86_64__)
  // AVX-512 was as fast: the loop waits for memory.
  if (target != CpuTarget::kBaseline) return ColumnsAvx2<Bits>;
#endif
  return ColumnsBaseline<Bits>;
}

void Store(float sum, uint32_t* to) { std::memcpy(to, &sum, sizeof(sum)); }
void Store(float sum, Bfloat16Bits* to) { *to = RoundToBfloat16(sum); }

template <typename Bits>
void Compute(const ReluBiasGradient<Bits>& work, CpuTarget target, const ParallelFor& parallel_for) {
  const ColumnsOf<Bits> columns_of = ColumnsFor<Bits>(target);
  std::vector<float> sums(work.columns, 0.0f), block(work.columns, 0.0f);
  const int64_t units = (work.columns + kColumnsAUnit - 1) / kColumnsAUnit;
  const int64_t bytes = std::min(work.columns, kColumnsAUnit) * work.rows * static_cast<int64_t>(sizeof(Bits));
  parallel_for(units, bytes * kNanosecondsA100 / 100, [&](int64_t begin, int64_t end) {
    columns_of(work, begin * kColumnsAUnit, std::min(end * kColumnsAUnit, work.columns), sums.data(), block.data());
  });
  for (int64_t j = 0; j < work.columns; ++j) Store(sums[j], work.bias_gradient + j);
}

}  // namespace

Bfloat16Bits RoundToBfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  // Rounding could carry the fraction of a NaN into its sign.
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<Bfloat16Bits>(bits >> 16) | kNaN<Bfloat16Bits>;
  // Half of the last bit that is kept, less one where that bit is even. Example: 0x3f808000 is as near to 0x3f80 as to 0x3f81.
  return static_cast<Bfloat16Bits>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void ComputeReluBiasGradient(const ReluBiasGradient<Float32Bits>& work, CpuTarget target, const ParallelFor& parallel_for) {
  Compute(work, target, parallel_for);
}

void ComputeReluBiasGradient(const ReluBiasGradient<Bfloat16Bits>& work, CpuTarget target, const ParallelFor& parallel_for) {
  Compute(work, target, parallel_for);
}

}  // namespace tfps
