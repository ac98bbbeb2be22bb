// The loops over rows for CPUs with AVX-512: sixteen floats at a time, the end of a row under a mask.
#if defined(__x86_64__)

#include <immintrin.h>

#include "tfps_ops/core/pair_kernels.h"
#include "tfps_ops/core/row_kernels.h"

// As in row_kernels_avx2.cc: the headers above are baseline, what follows is not.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif

namespace tfps {
namespace avx512 {
namespace {

constexpr int kWidth = 16;
typedef float Vec __attribute__((vector_size(kWidth * sizeof(float))));

// A mask of the first n of sixteen lanes, 0 < n < 16. Lanes outside are neither read nor written: a row may end at a page's
// end.
inline __mmask16 FirstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec LoadPart(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
inline void StorePart(float* p, int64_t n, Vec v) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }
// The masked form, because GCC 12 warns that the plain one reads what it leaves undefined.
inline Vec Sqrt(Vec v) { return _mm512_maskz_sqrt_ps(0xffff, v); }

// 32 registers hold three rows of up to 8 vectors, which is 128 floats.
constexpr int kMostVecs = 8;
constexpr int kVecsALine = 1;

// Sixteen floats by halves, as the other targets. The upper half is taken through memory: the instruction that takes it is not
// in AVX-512F.
inline float SumOfLine(const Vec* line) {
  float lanes[kWidth];
  Store(lanes, line[0]);
  const __m256 eight = _mm256_loadu_ps(lanes) + _mm256_loadu_ps(lanes + 8);
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
}

}  // namespace

#include "tfps_ops/core/row_kernels.inc"
#include "tfps_ops/core/pair_kernels.inc"
#include "tfps_ops/core/group_kernels.inc"

}  // namespace avx512
}  // namespace tfps

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)
