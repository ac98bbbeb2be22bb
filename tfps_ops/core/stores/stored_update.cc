#include "tfps_ops/core/stores/stored_update.h"

#include <algorithm>
#include <cstring>

#include "tfps_ops/core/rows/float_rows.h"

namespace tfps {
namespace {

// Rows at a time: few enough to stay in the first cache with all their slots.
constexpr int64_t kRowsAtOnce = 8;
// Rows ahead of the one that is stored to ask the memory for. One after the other: a burst of prefetches would wait for itself.
constexpr int64_t kAhead = 2 * kRowsAtOnce;
constexpr int64_t kBytesALine = 64;

// One range of an update, on one thread.
class RangeUpdate {
 public:
  RangeUpdate(const RowMatrix& matrix, const RowUpdater& updater)
      : matrix_(matrix), updater_(updater), floats_(updater, matrix.dim, kRowsAtOnce) {
    for (int part = 0; part < floats_.parts(); ++part) parts_[part] = matrix.part(part);
  }

  void Run(const float* prepared, const RowKeys& keys, const RowGradients& gradients, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < std::min(end, begin + kAhead); ++i) Prefetch(keys.keys[i]);
    for (int64_t first = begin; first < end; first += kRowsAtOnce) {
      const int64_t next = std::min(end, first + kRowsAtOnce);
      for (int64_t i = first; i < next; ++i) Load(i - first, keys.keys[i]);
      RowBlock block = floats_.Block(next - first);
      block.gradients = gradients.sums + first * matrix_.dim;
      block.measures = gradients.measures == nullptr ? nullptr : gradients.measures + first;
      updater_.ApplyPrepared(prepared, block);
      for (int64_t i = first; i < next; ++i) {
        if (i + kAhead < end) Prefetch(keys.keys[i + kAhead]);
        Store(i - first, keys.keys[i]);
      }
    }
  }

 private:
  uint8_t* At(int part, int64_t row) const {
    return static_cast<uint8_t*>(parts_[part].values) + row * parts_[part].width * BytesOf(parts_[part].storage);
  }

  // Inlined always: GCC takes a call of it for one without an effect, and drops it.
  __attribute__((always_inline)) void Prefetch(int64_t row) const {
    for (int part = 0; part < floats_.parts(); ++part) {
      const int64_t bytes = parts_[part].width * BytesOf(parts_[part].storage);
      const uint8_t* first = At(part, row);
      for (int64_t j = 0; j < bytes; j += kBytesALine) __builtin_prefetch(first + j, 1);
      // A row may cross into one more line.
      __builtin_prefetch(first + bytes - 1, 1);
    }
  }

  void Load(int64_t place, int64_t row) {
    for (int part = 0; part < floats_.parts(); ++part) floats_.Load(place, part, At(part, row), parts_[part].storage);
  }

  void Store(int64_t place, int64_t row) {
    const RoundingDraw draw{matrix_.update, row, 0};
    for (int part = 0; part < floats_.parts(); ++part) {
      floats_.Store(place, draw, part, parts_[part].storage, At(part, row));
    }
  }

  const RowMatrix& matrix_;
  const RowUpdater& updater_;
  FloatRows floats_;
  SlotMatrix parts_[1 + kMaxSlots];
};

}  // namespace

void UpdateStoredRows(const RowMatrix& matrix, const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys,
                      const RowGradients& gradients, const ParallelFor& parallel) {
  float prepared[kMaxHyperparameters];
  std::memcpy(prepared, hyperparameters, updater.hyperparameters() * sizeof(float));
  updater.Prepare(prepared);
  // A fetch from memory for the row and for each slot, and twice the arithmetic of an update of floats.
  parallel(keys.count, (20 + 2 * matrix.dim) * (1 + updater.slots()), [&](int64_t begin, int64_t end) {
    RangeUpdate(matrix, updater).Run(prepared, keys, gradients, begin, end);
  });
}

}  // namespace tfps
