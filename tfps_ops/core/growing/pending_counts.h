// Exact counts of updates of the keys of a segment that are not admitted yet, at about 15 bytes a key.
#ifndef TFPS_OPS_CORE_GROWING_PENDING_COUNTS_H_
#define TFPS_OPS_CORE_GROWING_PENDING_COUNTS_H_

#include <cstdint>
#include <vector>

#include "tfps_ops/core/growing/table_memory.h"

namespace tfps {

// A hash table with linear probing. Threads: the lock of the segment.
class PendingCounts {
 public:
  // Counts one more and returns the count. Where the memory budget is full all counts of the segment are forgotten first: an
  // endless stream of new keys must not take the place of rows.
  uint32_t Increment(uint64_t word, TableMemory* memory);
  // Forgets a key.
  void Remove(uint64_t word);

  int64_t size() const { return size_; }
  int64_t bytes() const { return static_cast<int64_t>(entries_.capacity() * sizeof(Entry)); }

 private:
  // Halves of 32 bits make an entry 12 bytes; with a 64-bit word it would be padded to 16.
  struct Entry {
    uint32_t low = 0, high = 0;
    uint32_t count = 0;  // 0: free
    bool Is(uint64_t word) const { return low == static_cast<uint32_t>(word) && high == static_cast<uint32_t>(word >> 32); }
    uint64_t word() const { return uint64_t{high} << 32 | low; }
  };

  // As Segment::Home, for any size: the table can grow by a quarter.
  int64_t Home(uint64_t word) const {
    return static_cast<int64_t>(((word >> 20 & 0xffffffff) * entries_.size()) >> 32);
  }
  int64_t Next(int64_t at) const { return at + 1 == static_cast<int64_t>(entries_.size()) ? 0 : at + 1; }
  // The entry of a word, or the free one where it belongs.
  int64_t Find(uint64_t word) const;
  bool Grow(TableMemory* memory);

  std::vector<Entry> entries_;
  int64_t size_ = 0;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_PENDING_COUNTS_H_
