// Counts the recent updates of keys in bounded memory: 16 bits a key, of which 12 are of its hash and 4 its count.
//
// The keys counted are in two generations. A key is counted in the young one, and takes its count along if it was in the old
// one. When the young one is full the old one is forgotten, and the young one becomes it. So the keys that are counted at a
// time are at least half of those that the filter is made for, and those forgotten have not come for that long.
//
// Errors go one way: a key that shares its place and 12 bits with another has the sum of both counts, and may be admitted
// early. With some 2 * 26 entries to meet, that happens to about 1 key in 80; counts are never too small but by forgetting. Counts
// stay when a key is admitted, as others may share them: a key that is evicted and soon comes back has its row at once.
#ifndef TFPS_OPS_CORE_GROWING_ADMISSION_FILTER_H_
#define TFPS_OPS_CORE_GROWING_ADMISSION_FILTER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "tfps_ops/core/growing/table_memory.h"
#include "tfps_ops/core/growing/spin_lock.h"

namespace tfps {

// Threads: any; each of the shards has a lock, and no other is taken under it.
class AdmissionFilter {
 public:
  static constexpr int64_t kMaxCount = 15;

  // For `keys` counted at a time, at least 1; a filter of fewer than a few thousand is made for that many. The memory of a shard,
  // 2.5 bytes a key, is taken when its first key comes.
  AdmissionFilter(int64_t keys, TableMemory* memory);

  // Counts one more of a word and returns its count, at most kMaxCount.
  int Increment(uint64_t word);
  void Clear();

 private:
  static constexpr int kShards = 256;  // so many that none is large: forgetting half of one is no pause
  static constexpr int kBucketEntries = 32;  // a cache line

  struct alignas(64) Bucket {
    std::array<uint16_t, kBucketEntries> entries = {};  // hash * 16 + count; 0: free
  };
  struct Generation {
    std::vector<Bucket> buckets;
    // Entries in use: what says when the generation is full.
    int64_t used = 0;
  };
  struct Shard {
    SpinLock lock;
    Generation young, old;
  };

  // The entry of a word, null where there is none; with `add` the free one where it belongs.
  uint16_t* Find(Generation* generation, uint64_t word, bool add) const;
  void Allocate(Shard* shard);
  // The top 8 bits, of which 256 is the number of shards.
  Shard& ShardOf(uint64_t word) { return shards_[word >> 56]; }

  int64_t keys_of_generation_, buckets_of_generation_;
  TableMemory* const memory_;
  std::array<Shard, kShards> shards_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_ADMISSION_FILTER_H_
