// The memory of a table: how much it has, how much it may have, and the pool that most of it comes from. Code that allocates
// for the table reserves first.
#ifndef TFPS_OPS_CORE_GROWING_TABLE_MEMORY_H_
#define TFPS_OPS_CORE_GROWING_TABLE_MEMORY_H_

#include <atomic>
#include <cstdint>

#include "tfps_ops/core/growing/unit_pool.h"

namespace tfps {

// Threads: any, without a lock. The sum never exceeds the limit, but for what is taken without asking.
class TableMemory {
 public:
  // What an allocation costs beside its size: the header and the rounding of malloc.
  // glibc's malloc has a header of 8 bytes and rounds to 16.
  static constexpr int64_t kOverhead = 16;

  explicit TableMemory(int64_t max_bytes) : max_bytes_(max_bytes) {}

  // Adds `bytes` (which may be negative) if the sum stays within the limit; returns whether it did.
  // Not added first and taken back: another thread could be refused by bytes that nobody has.
  bool Reserve(int64_t bytes) {
    int64_t before = bytes_.load(std::memory_order_relaxed);
    do {
      // To give memory back is never refused, even above the limit.
      if (!beyond() && max_bytes_ > 0 && bytes > 0 && before + bytes > max_bytes_) return false;
    } while (!bytes_.compare_exchange_weak(before, before + bytes, std::memory_order_relaxed));
    return true;
  }
  // For memory that cannot be done without, and for memory that is given back (negative).
  void Take(int64_t bytes) { bytes_.fetch_add(bytes, std::memory_order_relaxed); }

  // While an object of this class is there, budgets hold nobody back. Rows that are assigned must not get lost because a hash has
  // given this store some more of them than its part of the budget; the updates that follow evict what is beyond.
  class Beyond {
   public:
    explicit Beyond(TableMemory* memory) : memory_(*memory) { memory_.beyond_.fetch_add(1, std::memory_order_relaxed); }
    ~Beyond() { memory_.beyond_.fetch_sub(1, std::memory_order_relaxed); }
    Beyond(const Beyond&) = delete;
    Beyond& operator=(const Beyond&) = delete;

   private:
    TableMemory& memory_;
  };
  bool beyond() const { return beyond_.load(std::memory_order_relaxed) > 0; }

  // Chunks of blocks. What is given back to it is not counted any more: others take it, so that the pool never has more than
  // the table had at its largest.
  UnitPool units;

  int64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  int64_t max_bytes() const { return max_bytes_; }

 private:
  const int64_t max_bytes_;  // 0: no limit
  std::atomic<int64_t> bytes_{0};
  std::atomic<int> beyond_{0};  // objects of Beyond
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_TABLE_MEMORY_H_
