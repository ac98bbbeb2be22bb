// One of the parts of a table, with a lock of its own: an index and the blocks of its rows.
//
// Blocks are dense: rows have the numbers [0, count), and where one goes the last one takes its place. They lie in chunks:
// units of a pool, and the last one, until it is full, a piece of memory that is as short as it may be. So a table of few rows
// is small, and no growth moves more than one chunk. The index has 3.5 bytes a row (index_bucket.h) and is made anew when it is
// too full: at 65,536 rows, the most that a segment can have, that takes about a millisecond.
//
// Words: the mixed key of a row (key_mix.h). Its upper 12 bits are the number of the segment, the next 32 choose the bucket and
// the lowest 8 the tag; a block stores the 52 bits that the segment does not imply, and its flags above them.
//
// Threads: the lock guards everything. Prefetch, which reads two words that may be old, is the exception.
#ifndef TFPS_OPS_CORE_GROWING_SEGMENT_H_
#define TFPS_OPS_CORE_GROWING_SEGMENT_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "tfps_ops/core/growing/block_layout.h"
#include "tfps_ops/core/growing/gone_log.h"
#include "tfps_ops/core/growing/index_bucket.h"
#include "tfps_ops/core/growing/table_memory.h"
#include "tfps_ops/core/growing/pending_counts.h"
#include "tfps_ops/core/growing/spin_lock.h"

namespace tfps {

class alignas(64) Segment {
 public:
  // 4096 locks: with some ten threads two meet on one seldom. More would make an empty table large.
  static constexpr int kSegmentBits = 12, kSegments = 1 << kSegmentBits, kWordBits = 64 - kSegmentBits;
  // The index has 16 bits for the number of a block.
  static constexpr int64_t kMaxBlocks = 65536;
  static constexpr uint64_t kWordMask = (uint64_t{1} << kWordBits) - 1;
  static constexpr uint64_t kPinned = uint64_t{1} << 63;  // a flag of a block's first word
  static constexpr int kNone = -1;

  enum class Outcome {
    kDone,
    kNoRoom,  // the memory budget is full, or malloc has no more
    kFull,    // kMaxBlocks
  };

  Segment() = default;
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  ~Segment();

  SpinLock& lock() const { return lock_; }
  static int Of(uint64_t word) { return static_cast<int>(word >> kWordBits); }

  // Asks the memory for the bucket of a word; without the lock.
  void PrefetchIndex(uint64_t word) const;
  // The number of the first block with the tag of `word`, kNone if there is none: where its row is, most likely.
  int Likely(uint64_t word) const;

  // The block of a word, or kNone. `likely` saves the search where it is right.
  int Find(uint64_t word, int likely = kNone) const;
  bool IsWord(int block, uint64_t word) const {
    return ((BlockLayout::Read<uint64_t>(Block(block)) ^ word) & kWordMask) == 0;
  }
  // Asks the memory for what says where a block is.
  void PrefetchChunk(int block) const { __builtin_prefetch(chunks_ + layout->ChunkOf(static_cast<uint32_t>(block))); }
  uint8_t* Block(int block) const {
    const uint32_t number = static_cast<uint32_t>(block), chunk = layout->ChunkOf(number);
    return chunks_[chunk] + (number - chunk * layout->ChunkBlocks()) * layout->bytes;
  }
  uint64_t LowWord(int block) const { return BlockLayout::Read<uint64_t>(Block(block)) & kWordMask; }

  // Makes the block of a word that is not there; its number is count() - 1, and all but its word is left to be written.
  Outcome Insert(uint64_t word, TableMemory* memory);
  // Takes a block out; the last block gets its number. Gives memory back where much of it is free.
  void Erase(int block, TableMemory* memory);
  void Clear(TableMemory* memory);

  // Moves the blocks to another layout, which must have the columns of the present one. `reset` is a column that gets its
  // initial value also where it was there before, kNone for none. False where malloc has no memory: nothing has changed.
  bool Relay(const BlockLayout* to, int reset, TableMemory* memory);

  int count() const { return static_cast<int>(count_); }
  int64_t buckets() const { return bucket_count_.load(std::memory_order_relaxed); }
  // The sum over all blocks of how many buckets they are away from their home.
  // GrowthCounts::probes comes from it.
  int64_t displacement() const { return displacement_; }

  const BlockLayout* layout = nullptr;
  GoneLog* gone = nullptr;           // rows that went, owned; null until one does
  PendingCounts* pending = nullptr;  // keys on their way to be admitted, owned; null until there is one
  uint32_t newest_tick = 0;          // no block has a later one

 private:
  static constexpr int64_t kListStep = 64 / sizeof(uint8_t*);  // the list of chunks grows by a cache line

  // Maps 32 bits to [0, buckets) by a multiplication: no division, and any number of buckets, so that the index can grow by a
  // tenth and not only by doubling. With 10 buckets, bits of half the range give bucket 5.
  static uint32_t Home(uint64_t word, uint32_t buckets) {
    return static_cast<uint32_t>(((word >> 20 & 0xffffffff) * buckets) >> 32);
  }
  // 0 means free, so words with the tag 0 have 1.
  static uint8_t Tag(uint64_t word) {
    const uint8_t tag = static_cast<uint8_t>(word);
    return tag + (tag == 0);
  }
  static uint32_t Next(uint32_t bucket, uint32_t buckets) { return bucket + 1 == buckets ? 0 : bucket + 1; }

  bool GrowIndex(TableMemory* memory);
  // Makes the index anew with so many buckets.
  bool Rebuild(uint32_t buckets, TableMemory* memory);
  void Place(IndexBucket* buckets, uint32_t bucket_count, uint64_t word, int block);
  // The bucket and entry of a block that is there.
  std::pair<IndexBucket*, int> EntryOf(uint64_t word, int block) const;
  void Unplace(uint64_t word, int block);

  bool GrowBlocks(TableMemory* memory);
  void ShrinkBlocks(TableMemory* memory);
  // Memory for so many blocks in the last chunk, whose first `kept` blocks stay; 0 takes the chunk out.
  bool ResizeLastChunk(int64_t blocks, int64_t kept, TableMemory* memory);
  bool AddChunk(int64_t blocks, TableMemory* memory);
  int64_t Chunks() const { return (capacity_ + layout->ChunkBlocks() - 1) / layout->ChunkBlocks(); }
  // Blocks of chunk number `chunk` that there is memory for.
  int64_t ChunkCapacity(int64_t chunk) const {
    return std::min<int64_t>(layout->ChunkBlocks(), capacity_ - chunk * layout->ChunkBlocks());
  }
  int64_t ListBytes() const;
  static int64_t ChunkBytes(const BlockLayout& layout, int64_t blocks);
  static uint8_t* AllocateChunk(const BlockLayout& layout, int64_t blocks, TableMemory* memory);
  static void FreeChunk(const BlockLayout& layout, int64_t blocks, uint8_t* chunk, TableMemory* memory);
  // Takes the blocks out of their chunks, and the chunks with them.
  void FreeChunks(TableMemory* memory);
  int64_t Step() const;

  mutable SpinLock lock_;
  // Atomic for PrefetchIndex, which reads these two without the lock.
  std::atomic<uint32_t> bucket_count_{0};
  uint32_t count_ = 0;
  uint32_t capacity_ = 0;  // blocks that there is memory for
  uint32_t displacement_ = 0;
  std::atomic<IndexBucket*> buckets_{nullptr};
  uint8_t** chunks_ = nullptr;
};

static_assert(sizeof(Segment) == 64, "4096 segments should fit the caches");

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_SEGMENT_H_
