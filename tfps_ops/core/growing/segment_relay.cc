// Moves a segment to another layout: every block is copied, part by part.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tfps_ops/core/growing/segment.h"

namespace tfps {
namespace {

// One block, from one layout to another that has its columns and maybe more.
void RelayBlock(const BlockLayout& from, const uint8_t* block, const BlockLayout& to, int reset, uint8_t* out) {
  // The word goes with its flags, so a pinned row stays pinned.
  std::memcpy(out, block, sizeof(uint64_t));
  // A block without a tick is older than all that have one.
  to.SetTick(out, from.Tick(block));
  to.SetScore(out, from.Score(block));
  for (int c = 0; c < static_cast<int>(to.columns.size()); ++c) {
    if (c >= static_cast<int>(from.columns.size()) || c == reset) {
      to.Reset(out, c);
    } else {
      std::memcpy(out + to.columns[c].offset, block + from.columns[c].offset, from.columns[c].bytes());
    }
  }
}

}  // namespace

bool Segment::Relay(const BlockLayout* to, int reset, TableMemory* memory) {
  // All memory is allocated before the first block moves, so a failure leaves the segment in its old layout. Old and new blocks
  // of one segment exist at a time: a new column does not need the table twice, but a 4096th of it.
  const int64_t whole = to->ChunkBlocks(), chunks = (count_ + whole - 1) / whole;
  std::vector<uint8_t*> fresh;
  int64_t bytes = 0;
  for (int64_t i = 0; i < chunks; ++i) {
    // No free blocks at the end: the next insertion grows the last chunk.
    const int64_t blocks = std::min<int64_t>(whole, count_ - i * whole);
    fresh.push_back(AllocateChunk(*to, blocks, memory));
    bytes += ChunkBytes(*to, blocks);
  }
  const int64_t listed = (chunks + kListStep - 1) / kListStep * kListStep;
  uint8_t** list = static_cast<uint8_t**>(std::malloc(listed * sizeof(uint8_t*)));
  // An empty segment needs no memory, so malloc's null for 0 bytes is no failure.
  if (chunks > 0 && (list == nullptr || std::count(fresh.begin(), fresh.end(), nullptr) > 0)) {
    for (int64_t i = 0; i < chunks; ++i) {
      // With the size of each chunk: it tells units of the pool from pieces of malloc.
      if (fresh[i] != nullptr) FreeChunk(*to, std::min<int64_t>(whole, count_ - i * whole), fresh[i], memory);
    }
    std::free(list);
    return false;
  }
  for (int block = 0; block < count(); ++block) {
    const uint32_t number = static_cast<uint32_t>(block), chunk = to->ChunkOf(number);
    // Numbers of blocks stay, so the index stays as it is.
    RelayBlock(*layout, Block(block), *to, reset, fresh[chunk] + (number - chunk * whole) * to->bytes);
  }
  // Before chunks_ is replaced: it frees by the old list and the old layout.
  FreeChunks(memory);
  std::copy(fresh.begin(), fresh.end(), list);
  chunks_ = list;
  capacity_ = count_;
  layout = to;
  // Taken, not reserved: a column that an optimizer needs is not refused. Eviction brings the table back to its budget.
  memory->Take(bytes + ListBytes());
  return true;
}

}  // namespace tfps
