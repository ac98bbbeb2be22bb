// How a segment goes to another layout: every block is copied, part by part.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tfps_ops/core/growing/segment.h"

namespace tfps {
namespace {

// One block, from one layout to another that has its columns and maybe more.
void RelayBlock(const BlockLayout& from, const uint8_t* block, const BlockLayout& to, int reset, uint8_t* out) {
  std::memcpy(out, block, sizeof(uint64_t));
  // A block without a tick is older than all that have one.
  to.SetTick(out, from.Tick(block));
  to.SetScore(out, from.Score(block));
  for (int c = 0; c < static_cast<int>(to.columns.size()); ++c) {
    if (c >= static_cast<int>(from.columns.size()) || c == reset) {
      to.Reset(out, c);
    } else {
      std::memcpy(out + to.columns[c].offset, block + from.columns[c].offset, from.columns[c].width * sizeof(float));
    }
  }
}

}  // namespace

bool Segment::Relay(const BlockLayout* to, int reset, MemoryBudget* memory) {
  const int64_t chunks = (capacity_ + kChunkBlocks - 1) / kChunkBlocks;
  std::vector<uint8_t*> fresh;
  for (int64_t i = 0; i < chunks; ++i) {
    const int64_t blocks = std::min(kChunkBlocks, capacity_ - i * kChunkBlocks);
    void* chunk = std::malloc(blocks * to->bytes);
    if (chunk == nullptr) {
      for (uint8_t* other : fresh) std::free(other);
      return false;
    }
    fresh.push_back(static_cast<uint8_t*>(chunk));
  }
  for (int block = 0; block < count(); ++block) {
    uint8_t* out = fresh[block / kChunkBlocks] + block % kChunkBlocks * to->bytes;
    RelayBlock(*layout, Block(block), *to, reset, out);
  }
  for (int64_t i = 0; i < chunks; ++i) {
    std::free(chunks_[i]);
    chunks_[i] = fresh[i];
  }
  // Taken, not reserved: a column that an optimizer needs is not refused. Eviction brings the table back to its budget.
  memory->Take(capacity_ * (to->bytes - layout->bytes));
  layout = to;
  return true;
}

}  // namespace tfps
