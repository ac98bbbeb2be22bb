// Lock, view, and leave the work to row_matrix.h: all that a store with fixed rows has to do.
#include "tfps_ops/core/stores/matrix_row_store.h"

#include <mutex>
#include <utility>

namespace tfps {

MatrixRowStore::MatrixRowStore(std::vector<float> table, int64_t dim, const std::vector<int64_t>& slot_widths)
    : dim_(dim), slot_widths_(slot_widths), table_(std::move(table)) {
  // Slots have the rows of the table, each with a width of its own.
  const int64_t rows = static_cast<int64_t>(table_.size()) / dim_;
  for (int64_t width : slot_widths_) slots_.emplace_back(rows * width);
}

Status MatrixRowStore::CopyRows(const RowKeys& keys, const RowBuffer& out, const ParallelFor& parallel) {
  // Shared: any number of gathers run at once.
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  return tfps::CopyRows(Matrix(), keys, out, parallel);
}

Status MatrixRowStore::UpdateRows(const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys,
                                  const RowGradients& gradients, const ParallelFor& parallel) {
  // Exclusive from the checks to the last write, and while the observer is notified, as row_observer.h promises.
  const std::lock_guard<std::shared_mutex> lock(mutex_);
  const RowMatrix matrix = Matrix();
  TFPS_RETURN_IF_ERROR(CheckUpdate(matrix, updater, keys));
  tfps::UpdateRows(matrix, updater, hyperparameters, keys, gradients, parallel);
  if (observer_ != nullptr) observer_->OnUpdate(keys.keys, keys.count);
  return Status();
}

Result<RowChunk> MatrixRowStore::ScanRows(int64_t cursor, int64_t max_rows) const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  return tfps::ScanRows(Matrix(), cursor, max_rows);
}

void MatrixRowStore::Observe(RowObserver* observer) {
  const std::lock_guard<std::shared_mutex> lock(mutex_);
  observer_ = observer;
}

RowMatrix MatrixRowStore::Matrix() const {
  // Made anew for each call, as it is a handful of pointers.
  RowMatrix matrix;
  matrix.table = table_.data();
  matrix.slot_count = static_cast<int>(slots_.size());
  for (int i = 0; i < matrix.slot_count; ++i) matrix.slots[i] = {slots_[i].data(), slot_widths_[i]};
  matrix.rows = static_cast<int64_t>(table_.size()) / dim_;
  matrix.dim = dim_;
  return matrix;
}

}  // namespace tfps
