// The loops over rows for CPUs with AVX2: eight floats at a time, the end of a row under a mask.
#if defined(__x86_64__)

#include <immintrin.h>

#include "tfps_ops/core/pair_kernels.h"
#include "tfps_ops/core/row_kernels.h"

// The whole file is compiled for AVX2, and nothing of it may run elsewhere: functions of headers above this line stay
// baseline.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

namespace tfps {
namespace avx2 {
namespace {

constexpr int kWidth = 8;
typedef float Vec __attribute__((vector_size(kWidth * sizeof(float))));

// A mask of the first n of eight lanes, 0 < n < 8: lane i is taken where n > i.
inline __m256i FirstLanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Rows begin anywhere, so all loads are unaligned; on aligned memory they cost the same.
inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec LoadPart(const float* p, int64_t n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
inline void StorePart(float* p, int64_t n, Vec v) { _mm256_maskstore_ps(p, FirstLanes(n), v); }
inline Vec Sqrt(Vec v) { return _mm256_sqrt_ps(v); }

// 16 registers do not hold three rows, so the pairs' rows stay in memory.
constexpr int kMostVecs = 0;
constexpr int kVecsALine = 2;

// Sixteen floats by halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1. Every target adds in this order, so all get the same bits.
inline float SumOfLine(const Vec* line) {
  const __m256 eight = line[0] + line[1];
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
}

}  // namespace

#include "tfps_ops/core/row_kernels.inc"
#include "tfps_ops/core/pair_kernels.inc"
#include "tfps_ops/core/group_kernels.inc"

}  // namespace avx2
}  // namespace tfps

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)
