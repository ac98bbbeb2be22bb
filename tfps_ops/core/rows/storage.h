// How the numbers of a row are stored. All computation is in floats; a row that is stored as bfloat16 is widened before it, and
// rounded after it.
//
// A bfloat16 is the upper half of a float: its sign, its exponent and the first 7 bits of its mantissa. Its steps are 1/128 of a
// number, so an update of less than 1/256 would be lost if rows were rounded to the nearest. They are rounded at random: 1.003,
// which lies 0.38 of the way from 1 to 1.0078, becomes 1.0078 with probability 0.38, so the mean is right. Source: Gupta et al.
// 2015, "Deep Learning with Limited Numerical Precision".
#ifndef TFPS_OPS_CORE_ROWS_STORAGE_H_
#define TFPS_OPS_CORE_ROWS_STORAGE_H_

#include <cstdint>

namespace tfps {

enum class Storage { kFloat32, kBfloat16 };

inline int64_t BytesOf(Storage storage) { return storage == Storage::kFloat32 ? 4 : 2; }

// Rows that somebody wants written, of floats or of the bits of bfloat16; nothing is owned.
struct RowBuffer {
  RowBuffer(float* rows) : rows(rows) {}  // NOLINT: most callers have floats
  RowBuffer(void* rows, Storage storage) : rows(rows), storage(storage) {}

  // The buffer from number `element` on.
  void* At(int64_t element) const { return static_cast<uint8_t*>(rows) + element * BytesOf(storage); }

  void* rows;
  Storage storage = Storage::kFloat32;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROWS_STORAGE_H_
