#include "tfps_ops/core/growing/segment.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace tfps {
namespace {

// Entries in use over all entries of the index, at most. Beyond, searches that find nothing become long.
// At 0.93 a bucket of 64 bytes serves 19.5 rows: 3.3 bytes a row. Just after a growth it is 3.6.
constexpr double kMaxLoad = 0.93;
// What the index grows by. Smaller steps would save memory, and cost more insertions: 1 / 0.1 of them a row.
constexpr double kGrowth = 1.1;
// Below this load the index is made smaller.
// A rebuild leaves a load of 0.93 / 1.1 = 0.85, so 3 rows in 10 must go before the next one. A table whose size goes up and
// down by a few rows never rebuilds twice.
constexpr double kMinLoad = 0.6;

// No exceptions: a segment that cannot grow keeps its old index and reports kNoRoom.
IndexBucket* NewBuckets(int64_t count) { return new (std::nothrow) IndexBucket[count]; }

int64_t BucketBytes(int64_t count) {
  // Aligned memory costs up to a line more.
  return count == 0 ? 0 : count * static_cast<int64_t>(sizeof(IndexBucket)) + TableMemory::kOverhead + 32;
}

// A chunk is a unit of the pool once it is whole.
bool IsUnit(const BlockLayout& layout, int64_t blocks) { return layout.InUnits() && blocks == layout.ChunkBlocks(); }

// A single bucket takes at least one row, whatever rounding does.
int64_t MaxEntries(int64_t buckets) {
  return std::max<int64_t>(buckets > 0, static_cast<int64_t>(buckets * IndexBucket::kEntries * kMaxLoad));
}

}  // namespace

// A unit counts as its full size, with the bytes at its end that no block fits into. Pieces from malloc count their header.
int64_t Segment::ChunkBytes(const BlockLayout& layout, int64_t blocks) {
  return IsUnit(layout, blocks) ? UnitPool::kUnitBytes : blocks * layout.bytes + TableMemory::kOverhead;
}

uint8_t* Segment::AllocateChunk(const BlockLayout& layout, int64_t blocks, TableMemory* memory) {
  if (IsUnit(layout, blocks)) return memory->units.Allocate();
  return static_cast<uint8_t*>(std::malloc(blocks * layout.bytes));
}

void Segment::FreeChunk(const BlockLayout& layout, int64_t blocks, uint8_t* chunk, TableMemory* memory) {
  if (IsUnit(layout, blocks)) memory->units.Free(chunk);
  else std::free(chunk);
}

// The units are the pool's, which frees them all at once.
Segment::~Segment() {
  for (int64_t i = 0; i < Chunks(); ++i) {
    if (!IsUnit(*layout, ChunkCapacity(i))) std::free(chunks_[i]);
  }
  std::free(chunks_);
  delete[] buckets_.load(std::memory_order_relaxed);
  delete gone;
  delete pending;
}

void Segment::PrefetchIndex(uint64_t word) const {
  // The two may not fit each other while the index is made anew; a prefetch of any address is harmless.
  const uint32_t buckets = bucket_count_.load(std::memory_order_relaxed);
  __builtin_prefetch(buckets_.load(std::memory_order_relaxed) + Home(word, buckets));
}

int Segment::Likely(uint64_t word) const {
  const uint32_t bucket_count = bucket_count_.load(std::memory_order_relaxed);
  if (bucket_count == 0) return kNone;
  // Only the index is read. To compare the word would fetch the block, which is the fetch that the caller wants to start. Two
  // words with one tag are told apart by Find.
  const IndexBucket* buckets = buckets_.load(std::memory_order_relaxed);
  uint32_t at = Home(word, bucket_count);
  for (uint32_t i = 0; i < bucket_count; ++i, at = Next(at, bucket_count)) {
    const uint32_t matches = buckets[at].MatchTag(Tag(word));
    if (matches != 0) return buckets[at].blocks[__builtin_ctz(matches)];
    if (buckets[at].passed == 0) break;
  }
  return kNone;
}

int Segment::Find(uint64_t word, int likely) const {
  // The guess was made under an earlier hold of the lock: rows may have gone since, and another row may have this number.
  if (likely != kNone && likely < count() && IsWord(likely, word)) return likely;
  const uint32_t bucket_count = bucket_count_.load(std::memory_order_relaxed);
  const IndexBucket* buckets = buckets_.load(std::memory_order_relaxed);
  uint32_t at = bucket_count == 0 ? 0 : Home(word, bucket_count);
  for (uint32_t i = 0; i < bucket_count; ++i, at = Next(at, bucket_count)) {
    for (uint32_t matches = buckets[at].MatchTag(Tag(word)); matches != 0; matches &= matches - 1) {
      const int block = buckets[at].blocks[__builtin_ctz(matches)];
      if (IsWord(block, word)) return block;
    }
    // Nobody went past this bucket, so a row that belongs here or before lies here or before.
    if (buckets[at].passed == 0) break;
  }
  return kNone;
}

Segment::Outcome Segment::Insert(uint64_t word, TableMemory* memory) {
  if (count_ == kMaxBlocks) return Outcome::kFull;
  // Both growths come before any change, so a refusal leaves a valid segment. A block that was gained and is not used stays
  // for the next insertion.
  if (count_ == capacity_ && !GrowBlocks(memory)) return Outcome::kNoRoom;
  if (count() + 1 > MaxEntries(buckets()) && !GrowIndex(memory)) return Outcome::kNoRoom;
  const int block = count();
  ++count_;
  // A new block has no flags; MakeRow sets the pin.
  const uint64_t low = word & kWordMask;
  std::memcpy(Block(block), &low, sizeof(low));
  Place(buckets_.load(std::memory_order_relaxed), bucket_count_.load(std::memory_order_relaxed), word, block);
  return Outcome::kDone;
}

// The load is below 1, so there is a free entry and the loop ends.
void Segment::Place(IndexBucket* buckets, uint32_t bucket_count, uint64_t word, int block) {
  uint32_t at = Home(word, bucket_count);
  uint32_t free = buckets[at].MatchTag(0);
  for (; free == 0; free = buckets[at].MatchTag(0)) {
    // A later search for this word must go on here, even if an entry of this bucket is freed meanwhile.
    buckets[at].CountPassing();
    ++displacement_;
    at = Next(at, bucket_count);
  }
  const int entry = __builtin_ctz(free);
  buckets[at].tags[entry] = Tag(word);
  buckets[at].blocks[entry] = static_cast<uint16_t>(block);
}

std::pair<IndexBucket*, int> Segment::EntryOf(uint64_t word, int block) const {
  const uint32_t bucket_count = bucket_count_.load(std::memory_order_relaxed);
  IndexBucket* buckets = buckets_.load(std::memory_order_relaxed);
  // It is there, so the search ends.
  for (uint32_t at = Home(word, bucket_count);; at = Next(at, bucket_count)) {
    for (uint32_t matches = buckets[at].MatchTag(Tag(word)); matches != 0; matches &= matches - 1) {
      const int entry = __builtin_ctz(matches);
      // Block numbers are unique, so the number decides and no block is fetched to compare words.
      if (buckets[at].blocks[entry] == block) return {buckets + at, entry};
    }
  }
}

void Segment::Unplace(uint64_t word, int block) {
  const auto [bucket, entry] = EntryOf(word, block);
  // A freed entry needs no mark of deletion: searches stop by `passed`, not by free entries.
  bucket->tags[entry] = 0;
  const uint32_t bucket_count = bucket_count_.load(std::memory_order_relaxed);
  IndexBucket* buckets = buckets_.load(std::memory_order_relaxed);
  for (uint32_t at = Home(word, bucket_count); buckets + at != bucket; at = Next(at, bucket_count)) {
    // Without this, searches for words that are not there would grow longer with every row that goes.
    buckets[at].UncountPassing();
    --displacement_;
  }
}

bool Segment::GrowIndex(TableMemory* memory) {
  const int64_t now = buckets();
  // The + 1 is for fewer than 10 buckets, where a tenth more rounds to none.
  return Rebuild(static_cast<uint32_t>(std::max(now + 1, static_cast<int64_t>(now * kGrowth))), memory);
}

bool Segment::Rebuild(uint32_t bucket_count, TableMemory* memory) {
  // The old index is there until the new one is filled, and is not counted for that moment: the budget is of what stays.
  const int64_t more = BucketBytes(bucket_count) - BucketBytes(buckets());
  if (!memory->Reserve(more)) return false;
  IndexBucket* fresh = NewBuckets(bucket_count);
  if (fresh == nullptr) {
    memory->Take(-more);
    return false;
  }
  displacement_ = 0;
  // LowWord has no segment bits, and needs none: bucket and tag come from the lower 52. Blocks are read in the order of memory,
  // so the fetches are fast; the buckets of a full segment have 230 kB.
  for (int block = 0; block < count(); ++block) Place(fresh, bucket_count, LowWord(block), block);
  delete[] buckets_.load(std::memory_order_relaxed);
  buckets_.store(fresh, std::memory_order_relaxed);
  bucket_count_.store(bucket_count, std::memory_order_relaxed);
  return true;
}

// Blocks that the last chunk grows by: a 64th of the segment, so that at most that much is empty.
int64_t Segment::Step() const { return std::min<int64_t>(32, count_ / 64 + 1); }

bool Segment::ResizeLastChunk(int64_t blocks, int64_t kept, TableMemory* memory) {
  // Not realloc: a chunk that becomes whole moves from malloc to the pool, and one that shrinks moves back.
  const int64_t last = Chunks() - 1, before = ChunkCapacity(last);
  if (blocks == before) return true;
  const int64_t more = ChunkBytes(*layout, blocks) - ChunkBytes(*layout, before);
  if (!memory->Reserve(more)) return false;
  uint8_t* moved = AllocateChunk(*layout, blocks, memory);
  if (moved == nullptr) {
    memory->Take(-more);
    return false;
  }
  std::memcpy(moved, chunks_[last], kept * layout->bytes);
  // Only after the copy: the old chunk may be handed to another segment at once.
  FreeChunk(*layout, before, chunks_[last], memory);
  chunks_[last] = moved;
  capacity_ += static_cast<uint32_t>(blocks - before);
  return true;
}

int64_t Segment::ListBytes() const {
  const int64_t steps = (Chunks() + kListStep - 1) / kListStep;
  return steps == 0 ? 0 : steps * 64 + TableMemory::kOverhead;
}

bool Segment::AddChunk(int64_t blocks, TableMemory* memory) {
  const int64_t chunks = Chunks();
  // Reserved before anything is allocated, so that a refusal has nothing to undo. The 64 bytes are for the list.
  const int64_t bytes = ChunkBytes(*layout, blocks) + 64 + TableMemory::kOverhead;
  if (!memory->Reserve(bytes)) return false;
  if (chunks % kListStep == 0) {
    void* list = std::realloc(chunks_, (chunks + kListStep) * sizeof(uint8_t*));
    if (list == nullptr) {
      memory->Take(-bytes);
      return false;
    }
    chunks_ = static_cast<uint8_t**>(list);
  }
  uint8_t* chunk = AllocateChunk(*layout, blocks, memory);
  if (chunk == nullptr) {
    memory->Take(-bytes);
    return false;
  }
  // ListBytes follows from capacity_, so this is the list before the chunk is in it.
  const int64_t list_bytes = ListBytes();
  chunks_[chunks] = chunk;
  capacity_ += static_cast<uint32_t>(blocks);
  // More was reserved than is needed where the list has room.
  memory->Take(ChunkBytes(*layout, blocks) + ListBytes() - list_bytes - bytes);
  return true;
}

bool Segment::GrowBlocks(TableMemory* memory) {
  // For example 100 blocks in chunks of 215: the only chunk grows by 2, as malloc'ed memory, until it is a unit of 215. Then
  // a second one begins.
  const int64_t whole = layout->ChunkBlocks(), last = capacity_ % whole;
  if (last != 0) return ResizeLastChunk(std::min(whole, last + Step()), last, memory);
  return AddChunk(std::min(whole, Step()), memory);
}

void Segment::Erase(int block, TableMemory* memory) {
  // The index first: it finds the entries by the words, which are still where they were.
  Unplace(LowWord(block), block);
  const int last = count() - 1;
  if (block != last) {
    // The moved row keeps its entry and tag; only the number that stands there changes.
    const auto [bucket, entry] = EntryOf(LowWord(last), last);
    bucket->blocks[entry] = static_cast<uint16_t>(block);
    std::memcpy(Block(block), Block(last), layout->bytes);
  }
  --count_;
  ShrinkBlocks(memory);
  // One bucket stays, for the row that comes next.
  if (buckets() > 1 && count() < kMinLoad * IndexBucket::kEntries * buckets()) {
    // Where there is no memory for the smaller index the larger one stays, and works as well.
    Rebuild(static_cast<uint32_t>(count() / (kMaxLoad / kGrowth * IndexBucket::kEntries)) + 1, memory);
  }
}

// Not at each step: a row that goes where another comes must not cost a move of the chunk.
void Segment::ShrinkBlocks(TableMemory* memory) {
  if (count_ == 0) return Clear(memory);
  // Growth adds one step, so shrinking at two leaves a step between them.
  if (capacity_ - count_ <= 2 * Step()) return;
  const int64_t last = Chunks() - 1, used = count_ - last * layout->ChunkBlocks();
  if (used > 0) {
    ResizeLastChunk(std::min<int64_t>(layout->ChunkBlocks(), used + Step()), used, memory);
    return;
  }
  const int64_t list_bytes = ListBytes(), blocks = ChunkCapacity(last);
  FreeChunk(*layout, blocks, chunks_[last], memory);
  capacity_ -= static_cast<uint32_t>(blocks);
  memory->Take(ListBytes() - list_bytes - ChunkBytes(*layout, blocks));
}

void Segment::FreeChunks(TableMemory* memory) {
  int64_t bytes = ListBytes();
  for (int64_t i = 0; i < Chunks(); ++i) {
    bytes += ChunkBytes(*layout, ChunkCapacity(i));
    FreeChunk(*layout, ChunkCapacity(i), chunks_[i], memory);
  }
  std::free(chunks_);
  chunks_ = nullptr;
  capacity_ = 0;
  memory->Take(-bytes);
}

void Segment::Clear(TableMemory* memory) {
  FreeChunks(memory);
  // The index goes as well: the bytes of an empty segment are those of a new one.
  memory->Take(-BucketBytes(buckets()));
  delete[] buckets_.load(std::memory_order_relaxed);
  buckets_.store(nullptr, std::memory_order_relaxed);
  bucket_count_.store(0, std::memory_order_relaxed);
  count_ = displacement_ = 0;
}

}  // namespace tfps
