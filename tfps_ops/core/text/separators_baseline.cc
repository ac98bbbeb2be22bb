// The search for separators on any CPU, and the table from targets to searches.
#include "tfps_ops/core/text/separators.h"

#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tfps {
namespace baseline {
namespace {

inline uint64_t Matches(const char* text, char wanted) {
  uint64_t found = 0;
#if defined(__SSE2__)
  const __m128i all = _mm_set1_epi8(wanted);
  for (int i = 0; i < 4; ++i) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text) + i);
    found |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, all)))) << (16 * i);
  }
#else
  for (int i = 0; i < 64; ++i) found |= static_cast<uint64_t>(text[i] == wanted) << i;
#endif
  return found;
}

}  // namespace

#include "tfps_ops/core/text/separators.inc"

}  // namespace baseline

const SeparatorKernels& SeparatorKernelsFor(CpuTarget target) {
#if defined(__x86_64__)
  // AVX-512F, which is all that the third target asks for, compares no bytes.
  if (target != CpuTarget::kBaseline) return avx2::kSeparatorKernels;
#endif
  return baseline::kSeparatorKernels;
}

}  // namespace tfps
