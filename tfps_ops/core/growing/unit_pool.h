// Memory for the blocks of a table: pieces of one size from large regions, so that nothing is lost between them however often
// segments grow and shrink, and the system can back them by huge pages.
#ifndef TFPS_OPS_CORE_GROWING_UNIT_POOL_H_
#define TFPS_OPS_CORE_GROWING_UNIT_POOL_H_

#include <cstdint>
#include <vector>

#include "tfps_ops/core/growing/spin_lock.h"

namespace tfps {

// Threads: any; the lock is a leaf. Regions are given back when the pool goes, units when a table uses them again.
class UnitPool {
 public:
  // Small enough that a segment which needs one more wastes little, large enough that the list of chunks is short: a segment of
  // 65,536 blocks of 76 bytes has 305 chunks.
  static constexpr int64_t kUnitBytes = 16384;

  UnitPool() = default;
  UnitPool(const UnitPool&) = delete;
  UnitPool& operator=(const UnitPool&) = delete;
  ~UnitPool();

  // Null where there is no memory. Aligned to a cache line.
  uint8_t* Allocate();
  void Free(uint8_t* unit);

 private:
  // A huge page of x86-64, and of AArch64 with small pages.
  static constexpr int64_t kHugePage = int64_t{2} << 20;
  // Addresses; memory comes as units are written to.
  static constexpr int64_t kRegionBytes = 16 * kHugePage;

  // 32 MB: 2,048 units a call to the system.
  bool AddRegion();  // the lock is held

  SpinLock lock_;
  std::vector<void*> mapped_;            // what the system gave, each kRegionBytes + kHugePage
  uint8_t* last_ = nullptr;              // the last region, aligned
  int64_t used_of_last_ = kRegionBytes;  // bytes of it that were handed out
  // A stack: what was freed last is handed out first, while it may still be in a cache.
  uint8_t* free_ = nullptr;              // a list through the first words of units
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_UNIT_POOL_H_
