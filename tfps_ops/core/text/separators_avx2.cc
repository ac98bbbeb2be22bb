// The search for separators on CPUs with AVX2: 32 bytes are compared at a time.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "tfps_ops/core/text/separators.h"

// The whole file is compiled for AVX2, and nothing of it may run elsewhere: functions of headers above this line stay
// baseline.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,popcnt")
#endif

namespace tfps {
namespace avx2 {
namespace {

inline uint64_t Matches(const char* text, char wanted) {
  const __m256i all = _mm256_set1_epi8(wanted);
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + 32));
  const uint32_t of_low = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, all)));
  const uint32_t of_high = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, all)));
  return of_low | static_cast<uint64_t>(of_high) << 32;
}

}  // namespace

#include "tfps_ops/core/text/separators.inc"

}  // namespace avx2
}  // namespace tfps

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)
