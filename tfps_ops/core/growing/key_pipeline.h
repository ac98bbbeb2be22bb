// Visits the segments of many keys so that several fetches from memory are under way at a time.
//
// A row is two fetches away: its bucket of the index, then its block. While key i is worked on, the block of key
// i + kBlockAhead is asked for, which needs the bucket, and the bucket of key i + kIndexAhead. The number of the block is kept
// as a guess: the segment is unlocked in between, so whoever works on the key checks it.
#ifndef TFPS_OPS_CORE_GROWING_KEY_PIPELINE_H_
#define TFPS_OPS_CORE_GROWING_KEY_PIPELINE_H_

#include <cstdint>
#include <mutex>

#include "tfps_ops/core/growing/table_parts.h"
#include "tfps_ops/core/stores/row_store.h"

namespace tfps {

// Counted in keys. Each stage must be far enough ahead of the next for its fetch to arrive: the segment (30), whose fields say
// where the bucket is (24), which says where the block is (12).
constexpr int64_t kBlockAhead = 12;
constexpr int64_t kIndexAhead = 24;
constexpr int64_t kSegmentAhead = 30;

// Asks the memory for the first line of a block (word, tick, score) and for its bytes [begin, end).
inline void PrefetchBlock(const uint8_t* block, int64_t begin, int64_t end) {
  constexpr int64_t kLine = 64;
  __builtin_prefetch(block, 1);
  // Prefetched for writing (1): an update changes the line, and a training lookup its tick.
  for (int64_t at = begin; at < end; at += kLine) __builtin_prefetch(block + at, 1);
  // Blocks do not begin at cache lines, so the last floats may lie in one line more than the loop meets.
  __builtin_prefetch(block + end - 1, 1);
}

// Calls visit(i, word, likely) for each i in [begin, end), in their order, without a lock. `last_column` is the last one of a
// block that the visit reads; -1 for all.
template <class Visit>
void ForEachKey(const TableParts& parts, const RowKeys& keys, int64_t begin, int64_t end, int first_column, int last_column,
                const Visit& visit) {
  // A power of two, so that % is a mask.
  constexpr int64_t kRing = 32;
  static_assert(kRing > kSegmentAhead, "the ring holds all keys under way");
  uint64_t words[kRing];
  int likely[kRing];
  // i runs from before the range: the first 30 turns visit nothing and only start fetches. With begin 0, turn -30 asks for the
  // segment of key 0, turn -24 for its bucket, turn -12 for its block, and turn 0 visits it.
  for (int64_t i = begin - kSegmentAhead; i < end; ++i) {
    const int64_t first = i + kSegmentAhead, index = i + kIndexAhead, block = i + kBlockAhead;
    if (first < end) {
      words[first % kRing] = parts.mix.WordOf(keys.keys[first]);
      __builtin_prefetch(&parts.SegmentOf(words[first % kRing]), 1);
    }
    if (index >= begin && index < end) {
      const uint64_t word = words[index % kRing];
      parts.SegmentOf(word).PrefetchIndex(word);
    }
    if (block >= begin && block < end) {
      const uint64_t word = words[block % kRing];
      const Segment& segment = parts.SegmentOf(word);
      // Index, layout and chunks may be replaced by another thread; only under the lock do they fit each other.
      const std::lock_guard<SpinLock> lock(segment.lock());
      const int number = likely[block % kRing] = segment.Likely(word);
      if (number != Segment::kNone) {
        const auto& columns = segment.layout->columns;
        // Offsets rise with column numbers, so this is the end of all columns that the visit reads.
        const int last = last_column < 0 ? static_cast<int>(columns.size()) - 1 : last_column;
        const int64_t last_byte = columns[last].offset + columns[last].bytes();
        PrefetchBlock(segment.Block(number), columns[first_column].offset, last_byte);
      }
    }
    if (i >= begin) visit(i, words[i % kRing], likely[i % kRing]);
  }
}

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_KEY_PIPELINE_H_
