// Some rows with their slots, as floats: where an optimizer works on rows that are stored otherwise.
#ifndef TFPS_OPS_CORE_ROWS_FLOAT_ROWS_H_
#define TFPS_OPS_CORE_ROWS_FLOAT_ROWS_H_

#include <cstdint>
#include <vector>

#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/core/rows/row_conversion.h"

namespace tfps {

// Room for `capacity` rows; part 0 is the row itself and part 1 + i slot i. Loading, updating and storing a row is one update of it,
// so the caller holds its lock from the first to the last.
// Threads: one thread uses an object. Cost: O(floats of a row) for each call, in the first cache.
class FloatRows {
 public:
  FloatRows(const RowUpdater& updater, int64_t dim, int64_t capacity);

  int parts() const { return parts_; }
  int64_t width(int part) const { return widths_[part]; }

  // Copies a part of a row in, to place `place`.
  void Load(int64_t place, int part, const void* from, Storage storage) {
    WidenRow(from, storage, widths_[part], At(place, part));
  }
  // Copies it back, rounded at random where it is stored as bfloat16. The part of `draw` is set here.
  void Store(int64_t place, RoundingDraw draw, int part, Storage storage, void* out) {
    draw.part = part;
    StoreAtRandom(At(place, part), widths_[part], draw, storage, out);
  }

  // The rows at the first `count` places as a block for RowUpdater, which may be applied as it is once it has gradients.
  RowBlock Block(int64_t count);

 private:
  float* At(int64_t place, int part) { return begins_[part] + place * widths_[part]; }

  int parts_;
  int64_t widths_[1 + kMaxSlots] = {};
  float* begins_[1 + kMaxSlots] = {};
  std::vector<float> floats_;
  std::vector<int64_t> places_;  // 0, 1, 2 ...
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROWS_FLOAT_ROWS_H_
