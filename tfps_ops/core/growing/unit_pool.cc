#include "tfps_ops/core/growing/unit_pool.h"

#include <sys/mman.h>

#include <cstring>
#include <mutex>

namespace tfps {

UnitPool::~UnitPool() {
  // By region, whichever units are still handed out: the table that they belong to ends with the pool.
  for (void* mapped : mapped_) munmap(mapped, kRegionBytes + kHugePage);
}

bool UnitPool::AddRegion() {
  // One huge page more than a region, so that an aligned region fits wherever the system puts the mapping. The rest is never
  // written to, so it costs addresses and no memory.
  void* mapped = mmap(nullptr, kRegionBytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return false;
  mapped_.push_back(mapped);
  const uintptr_t at = reinterpret_cast<uintptr_t>(mapped);
  last_ = reinterpret_cast<uint8_t*>((at + kHugePage - 1) / kHugePage * kHugePage);
#if defined(MADV_HUGEPAGE)
  // Rows are read at random: with pages of 4 kB most reads would have to find their page in memory first. A system without
  // huge pages says no, and nothing is lost.
  (void)madvise(last_, kRegionBytes, MADV_HUGEPAGE);
#endif
  used_of_last_ = 0;
  return true;
}

uint8_t* UnitPool::Allocate() {
  const std::lock_guard<SpinLock> lock(lock_);
  if (free_ != nullptr) {
    uint8_t* unit = free_;
    std::memcpy(&free_, unit, sizeof(free_));
    return unit;
  }
  // used_of_last_ begins at kRegionBytes: a table that never fills a chunk maps no region.
  if (used_of_last_ == kRegionBytes && !AddRegion()) return nullptr;
  // Units are handed out from the beginning of a region, so the system backs few pages of a small table.
  uint8_t* unit = last_ + used_of_last_;
  used_of_last_ += kUnitBytes;
  return unit;
}

void UnitPool::Free(uint8_t* unit) {
  const std::lock_guard<SpinLock> lock(lock_);
  // The list lies in the free units themselves: to free memory must not need memory.
  std::memcpy(unit, &free_, sizeof(free_));
  free_ = unit;
}

}  // namespace tfps
