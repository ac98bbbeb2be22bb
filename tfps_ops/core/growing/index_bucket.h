// One cache line of the index: 21 tags, which are compared at once, and the numbers of the blocks that they stand for.
//
// A block's place is its home bucket or, where that is full, the next one that is not. A bucket counts the entries that have
// gone past it, and a search ends at the first bucket that nobody has gone past.
#ifndef TFPS_OPS_CORE_GROWING_INDEX_BUCKET_H_
#define TFPS_OPS_CORE_GROWING_INDEX_BUCKET_H_

#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tfps {

struct alignas(64) IndexBucket {
  static constexpr int kEntries = 21;
  static constexpr uint8_t kMany = 255;  // a count that has met its limit, and stays there until the index is made anew

  // 21 tags + 1 count + 21 * 2 bytes of numbers = 64. There are 255 tags, so in about 8 of 100 searches one of 20 other rows in
  // the bucket has the tag that is sought, and its block is fetched in vain.
  uint8_t tags[kEntries] = {};  // 0: free
  uint8_t passed = 0;
  uint16_t blocks[kEntries] = {};

  // The entries with this tag, bit i for entry i. MatchTag(0) are those that are free.
  uint32_t MatchTag(uint8_t tag) const {
#if defined(__SSE2__)
    // Bytes 0 to 15, and 5 to 20 again from the end: the second load stays within the tags.
    const __m128i wanted = _mm_set1_epi8(static_cast<char>(tag));
    // A load of 32 bytes would need AVX2, which not every server has; SSE2 is part of x86-64.
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tags));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tags + kEntries - 16));
    const uint32_t low_bits = static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(low, wanted)));
    const uint32_t high_bits = static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(high, wanted)));
    // Entries 5 to 15 are in both; the bits of one entry fall on each other.
    return low_bits | (high_bits << (kEntries - 16));
#else
    uint32_t bits = 0;
    for (int i = 0; i < kEntries; ++i) bits |= static_cast<uint32_t>(tags[i] == tag) << i;
    return bits;
#endif
  }

  // Once at the limit the true count is unknown. To count down from there could reach 0 while a row lies further on, which then
  // would not be found. A count that stays only makes searches longer.
  void CountPassing() { passed += passed != kMany; }
  void UncountPassing() { passed -= passed != kMany && passed != 0; }
};

static_assert(sizeof(IndexBucket) == 64, "a bucket is a cache line");

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_INDEX_BUCKET_H_
