// A RowStore in plain memory, with fixed rows: the simplest one there is, and the twin that others are tested against.
//
// Example, a table of two rows of 3 floats with one slot as wide:
//   MatrixRowStore store({1, 2, 3, 4, 5, 6}, 3, {3});
//   store.UpdateRows(*adagrad, hyperparameters, {keys, 1}, gradients, InCallersThread);
#ifndef TFPS_OPS_CORE_STORES_MATRIX_ROW_STORE_H_
#define TFPS_OPS_CORE_STORES_MATRIX_ROW_STORE_H_

#include <cstdint>
#include <shared_mutex>
#include <vector>

#include "tfps_ops/core/stores/row_matrix.h"
#include "tfps_ops/core/stores/row_observer.h"
#include "tfps_ops/core/stores/row_store.h"

namespace tfps {

// Threads: one lock for all rows; copies and scans share it, updates hold it alone. So all rows of a call are of one moment.
class MatrixRowStore : public RowStore {
 public:
  // `table` is [rows, dim]; slot i is [rows, slot_widths[i]], at most kMaxSlots of them, and all 0 at first.
  MatrixRowStore(std::vector<float> table, int64_t dim, const std::vector<int64_t>& slot_widths);

  Status CopyRows(const RowKeys& keys, const RowBuffer& out, const ParallelFor& parallel) override;
  Status UpdateRows(const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys, const RowGradients& gradients,
                    const ParallelFor& parallel) override;
  Result<RowChunk> ScanRows(int64_t cursor, int64_t max_rows) const override;

  // Sets the observer of all later updates; null for none. `observer` must outlive the store, or be replaced before.
  void Observe(RowObserver* observer);

 private:
  // The buffers as the functions of row_matrix.h want them. The lock is held.
  RowMatrix Matrix() const;

  const int64_t dim_;
  const std::vector<int64_t> slot_widths_;
  mutable std::shared_mutex mutex_;               // guards what follows
  mutable std::vector<float> table_;              // mutable: RowMatrix has no const form, and scans only read through it
  mutable std::vector<std::vector<float>> slots_;
  RowObserver* observer_ = nullptr;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_STORES_MATRIX_ROW_STORE_H_
