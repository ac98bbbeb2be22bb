// The layout of a block. All columns of a row lie in one block, so that a row and its slots are one fetch from memory.
//
//   [word, 8 bytes][tick, 4 bytes, if any][score, 4 bytes, if any][column 0][column 1]...
//
// The word is the mixed key without its segment (segment.h), whose bits carry flags.
// For example dim 8 with ticks and Adagrad: word 0-7, tick 8-11, row 12-43, slot 44-75, so 76 bytes. A unit of 16,384 bytes has
// 215 such blocks, and 44 bytes are left.
#ifndef TFPS_OPS_CORE_GROWING_BLOCK_LAYOUT_H_
#define TFPS_OPS_CORE_GROWING_BLOCK_LAYOUT_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tfps_ops/core/growing/unit_pool.h"
#include "tfps_ops/core/rows/row_conversion.h"

namespace tfps {

// Immutable once segments use it. A change of the table's columns makes a new layout, to which segments go one by one; so a
// segment says which layout it has. Columns are never taken out of a layout: a number stays what it is.
struct BlockLayout {
  struct Column {
    int64_t width = 0;    // numbers
    int64_t offset = 0;   // bytes from the block's begin
    float initial = 0;    // of every element, but for column 0
    Storage storage = Storage::kFloat32;

    int64_t bytes() const { return width * BytesOf(storage); }
  };

  std::vector<Column> columns;
  int64_t tick_offset = 0;   // 0: no ticks
  int64_t score_offset = 0;  // 0: no scores
  int64_t bytes = sizeof(uint64_t);

  // Blocks come in chunks, of a unit of the pool where that has at least kFewestBlocks of them.
  // With at least 16 blocks a unit loses less than 1/16 at its end. Blocks above 1,024 bytes lie in chunks of 16 from malloc.
  bool InUnits() const { return bytes * kFewestBlocks <= UnitPool::kUnitBytes; }
  uint32_t ChunkBlocks() const { return chunk_blocks_; }
  // block / ChunkBlocks(), for blocks below 65,536: a multiplication.
  // Exact: rounding the reciprocal up adds less than 2^-16 to the quotient, and a chunk has at most 2,048 blocks, so a quotient
  // that is not whole is at least 1/2,048 below the next number.
  uint32_t ChunkOf(uint32_t block) const { return static_cast<uint32_t>(block * reciprocal_ >> 32); }

  // Adds parts. Ticks and scores may come after columns; an offset is never 0, because the word is there.
  void AddTick() { tick_offset = Append(sizeof(uint32_t)); }
  void AddScore() { score_offset = Append(sizeof(float)); }
  void AddColumn(int64_t width, float initial, Storage storage) {
    // An odd number of bfloat16 takes 2 bytes more: what follows is floats, perhaps, which begin at a multiple of 4.
    columns.push_back({width, Append((width * BytesOf(storage) + 3) / 4 * 4), initial, storage});
  }

  // The numbers of a column, as they are stored.
  uint8_t* At(uint8_t* block, int column) const { return block + columns[column].offset; }
  // The same for a column of floats.
  float* Floats(uint8_t* block, int column) const { return reinterpret_cast<float*>(At(block, column)); }

  // Copies a column out, as floats or as bfloat16.
  void Copy(uint8_t* block, int column, const RowBuffer& out, int64_t element) const {
    CopyRow(At(block, column), columns[column].storage, columns[column].width, out, element);
  }
  // Overwrites a column, rounded to the nearest where it is bfloat16.
  void Write(uint8_t* block, int column, const float* values) const {
    StoreNearest(values, columns[column].width, columns[column].storage, At(block, column));
  }

  // 0 where the layout has none.
  uint32_t Tick(const uint8_t* block) const { return tick_offset == 0 ? 0 : Read<uint32_t>(block + tick_offset); }
  float Score(const uint8_t* block) const { return score_offset == 0 ? 0 : Read<float>(block + score_offset); }
  void SetTick(uint8_t* block, uint32_t tick) const {
    if (tick_offset != 0) std::memcpy(block + tick_offset, &tick, sizeof(tick));
  }
  void SetScore(uint8_t* block, float score) const {
    if (score_offset != 0) std::memcpy(block + score_offset, &score, sizeof(score));
  }

  // Every element of a column to its initial value.
  void Reset(uint8_t* block, int column) const {
    const Column& about = columns[column];
    if (about.storage == Storage::kFloat32) {
      float* floats = Floats(block, column);
      std::fill(floats, floats + about.width, about.initial);
      return;
    }
    uint16_t* halves = reinterpret_cast<uint16_t*>(At(block, column));
    StoreNearest(&about.initial, 1, about.storage, halves);
    std::fill(halves, halves + about.width, *halves);
  }

  template <class T>
  // By memcpy, as a block is aligned to 4 bytes only: with 76 bytes a block every other word is not at a multiple of 8.
  static T Read(const uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }

 private:
  int64_t Append(int64_t size) {
    const int64_t offset = bytes;
    bytes += size;
    // `bytes` has grown, so InUnits speaks of the layout as it is now.
    chunk_blocks_ = static_cast<uint32_t>(InUnits() ? UnitPool::kUnitBytes / bytes : kFewestBlocks);
    reciprocal_ = ((uint64_t{1} << 32) + chunk_blocks_ - 1) / chunk_blocks_;
    return offset;
  }

  static constexpr int64_t kFewestBlocks = 16;

  uint32_t chunk_blocks_ = 1;
  uint64_t reciprocal_ = 0;  // 2^32 / chunk_blocks_, rounded up
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_BLOCK_LAYOUT_H_
