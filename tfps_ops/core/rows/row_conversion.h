// Rows of floats from rows as they are stored, and back.
//
// Threads: functions keep no state. Cost: O(n), vectorised; every CPU target gives the same bits.
#ifndef TFPS_OPS_CORE_ROWS_ROW_CONVERSION_H_
#define TFPS_OPS_CORE_ROWS_ROW_CONVERSION_H_

#include <cstdint>

#include "tfps_ops/core/rows/storage.h"

namespace tfps {

// Where the random numbers of one part of one row come from: they follow from these three alone, so a run can be repeated.
// Two updates of a row, or two parts of it, must not share a draw: their rounding errors would add up.
struct RoundingDraw {
  uint64_t update = 0;  // the number of the update among those of its table
  int64_t key = 0;      // of the row
  int part = 0;         // 0 for the row, 1 + i for slot i

  // The stream of these numbers: each bit depends on all of them.
  uint64_t Stream() const;
};

// The n numbers at `from`, as floats. Exact.
void WidenRow(const void* from, Storage storage, int64_t n, float* out);

// Stores n floats, each rounded to the nearest: for values that are assigned, and whose next update is not a small step away.
void StoreNearest(const float* from, int64_t n, Storage storage, void* out);

// Stores n floats, each rounded at random to one of its two neighbours, so that the mean is the float. Infinities and NaN stay
// what they are; so does a number that bfloat16 has.
void StoreAtRandom(const float* from, int64_t n, const RoundingDraw& draw, Storage storage, void* out);

// One row from its storage to another; narrowed to the nearest.
void CopyRow(const void* from, Storage storage, int64_t n, const RowBuffer& out, int64_t element);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROWS_ROW_CONVERSION_H_
