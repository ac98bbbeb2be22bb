#include "tfps_ops/core/rows/float_rows.h"

#include <numeric>

namespace tfps {

FloatRows::FloatRows(const RowUpdater& updater, int64_t dim, int64_t capacity)
    : parts_(1 + updater.slots()), places_(capacity) {
  int64_t floats = 0;
  for (int part = 0; part < parts_; ++part) {
    widths_[part] = part == 0 ? dim : updater.SlotWidth(part - 1, dim);
    floats += widths_[part] * capacity;
  }
  floats_.resize(floats);
  // Each part is a matrix, as the loops of row_kernels.inc want it.
  float* begin = floats_.data();
  for (int part = 0; part < parts_; ++part) {
    begins_[part] = begin;
    begin += widths_[part] * capacity;
  }
  std::iota(places_.begin(), places_.end(), 0);
}

RowBlock FloatRows::Block(int64_t count) {
  RowBlock block;
  block.table = begins_[0];
  for (int part = 1; part < parts_; ++part) block.slots[part - 1] = begins_[part];
  block.rows = places_.data();
  block.count = count;
  block.dim = widths_[0];
  return block;
}

}  // namespace tfps
