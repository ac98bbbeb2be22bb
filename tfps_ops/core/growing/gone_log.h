// The log of the rows of a segment that were evicted or erased, each with its tick: `evicted` of Since comes from it.
#ifndef TFPS_OPS_CORE_GROWING_GONE_LOG_H_
#define TFPS_OPS_CORE_GROWING_GONE_LOG_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "tfps_ops/core/growing/table_memory.h"

namespace tfps {

// A list in the order of ticks, cleaned when it is long. A key that is evicted, made again and evicted again may be in it
// twice, and a key that is stored again may still be in it; readers skip both, and cleaning removes them.
// Threads: the lock of the segment.
class GoneLog {
 public:
  using IsStored = std::function<bool(uint64_t word)>;

  void Add(uint64_t word, uint32_t tick, TableMemory* memory);

  // The words of rows that were evicted or erased after `tick` and are not stored now, each once.
  std::vector<uint64_t> Since(uint32_t tick, const IsStored& is_stored) const;

  // Cleans a list of more than `limit` entries; drops the oldest where it is still too long. Returns the tick of the last one
  // dropped, 0 where none was.
  uint32_t Trim(int64_t limit, const IsStored& is_stored, TableMemory* memory);

  int64_t size() const { return static_cast<int64_t>(entries_.size()); }
  int64_t bytes() const { return static_cast<int64_t>(entries_.capacity() * sizeof(Entry)); }

 private:
  // 12 bytes, where a 64-bit word and a tick would have 16.
  struct Entry {
    uint32_t low, high, tick;
    uint64_t word() const { return uint64_t{high} << 32 | low; }
  };

  // Without repeats and without what is stored, in the order of ticks; of entries after `tick`.
  std::vector<Entry> Cleaned(uint32_t tick, const IsStored& is_stored) const;

  // Ticks rise and the segment is locked, so appending keeps the order.
  std::vector<Entry> entries_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_GONE_LOG_H_
