// One loop, compiled for each kind of CPU; the compiler turns it into vectors.
#include "tfps_ops/core/bias_gradient.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace tfps {
namespace {

// A unit of work: two cache lines of a row, so that no two threads write to one line.
constexpr int64_t kColumnsAUnit = 64;
// Nanoseconds of 100 elements, about: from the second-level cache on it is the wait for memory.
constexpr int64_t kNanosecondsA100 = 12;

constexpr Bfloat16Bits kInfinity = 0x7f80, kMagnitude = 0x7fff, kNaN = 0x7fc0;

// The columns [begin, end). Inlined into a function of each target, so that it has the instructions of that target. It uses
// nothing of the standard library, of which the linker might keep the copy for AVX2 for everybody.
inline __attribute__((always_inline)) void Columns(const ReluBiasGradient& work, int64_t begin, int64_t end, float* sums) {
  const int64_t width = end - begin;
  for (int64_t i = 0; i < work.rows; ++i) {
    const Bfloat16Bits* __restrict upstream = work.upstream + i * work.columns + begin;
    const Bfloat16Bits* __restrict results = work.results + i * work.columns + begin;
    Bfloat16Bits* __restrict gradient = work.gradient + i * work.columns + begin;
    float* __restrict to = sums + begin;
    for (int64_t j = 0; j < width; ++j) {
      // Bits of numbers above 0 are 1 to those of infinity. Above them are NaN, then all that have a sign.
      const bool passes = static_cast<Bfloat16Bits>(results[j] - 1) < kInfinity;
      // TensorFlow multiplies by 0: what is not finite becomes NaN, and is not hidden.
      const Bfloat16Bits stopped = (upstream[j] & kMagnitude) < kInfinity ? 0 : kNaN;
      const Bfloat16Bits bits = passes ? upstream[j] : stopped;
      gradient[j] = bits;
      const uint32_t wide = static_cast<uint32_t>(bits) << 16;
      float value;
      __builtin_memcpy(&value, &wide, sizeof(value));
      to[j] += value;
    }
  }
}

void ColumnsBaseline(const ReluBiasGradient& work, int64_t begin, int64_t end, float* sums) {
  Columns(work, begin, end, sums);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void ColumnsAvx2(const ReluBiasGradient& work, int64_t begin, int64_t end, float* sums) {
  Columns(work, begin, end, sums);
}
#endif

using ColumnsOf = void (*)(const ReluBiasGradient&, int64_t, int64_t, float*);

ColumnsOf ColumnsFor(CpuTarget target) {
#if defined(__x86_64__)
  // AVX-512 was as fast: the loop waits for memory.
  if (target != CpuTarget::kBaseline) return ColumnsAvx2;
#endif
  return ColumnsBaseline;
}

}  // namespace

Bfloat16Bits RoundToBfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  // Rounding could carry the fraction of a NaN into its sign.
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<Bfloat16Bits>(bits >> 16) | kNaN;
  // Half of the last bit that is kept, less one where that bit is even. Example: 0x3f808000 is as near to 0x3f80 as to 0x3f81.
  return static_cast<Bfloat16Bits>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void ComputeReluBiasGradient(const ReluBiasGradient& work, CpuTarget target, const ParallelFor& parallel_for) {
  const ColumnsOf columns_of = ColumnsFor(target);
  std::vector<float> sums(work.columns, 0.0f);
  const int64_t units = (work.columns + kColumnsAUnit - 1) / kColumnsAUnit;
  const int64_t nanoseconds = std::min(work.columns, kColumnsAUnit) * work.rows * kNanosecondsA100 / 100;
  parallel_for(units, nanoseconds, [&](int64_t begin, int64_t end) {
    columns_of(work, begin * kColumnsAUnit, std::min(end * kColumnsAUnit, work.columns), sums.data());
  });
  for (int64_t j = 0; j < work.columns; ++j) work.bias_gradient[j] = RoundToBfloat16(sums[j]);
}

}  // namespace tfps
