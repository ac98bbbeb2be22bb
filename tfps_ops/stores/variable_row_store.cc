// Lock, check, view, and leave the work to core/stores/row_matrix.h.
//
// The view is made anew for every call: under the lock nobody moves the buffers, and without it anybody may.
#include "tfps_ops/stores/variable_row_store.h"

#include "tfps_ops/stores/update_numbers.h"
#include "tfps_ops/stores/variable_observers.h"

namespace tfps {

namespace tf = ::tensorflow;

namespace {

// Everything about a variable is looked at under its lock, and anew at each call: an assignment may change its shape, and even
// a table that was right a step ago may have been loaded from another model since.

// Whether rows may be stored in this type.
bool IsStored(tf::DataType dtype) { return dtype == tf::DT_FLOAT || dtype == tf::DT_BFLOAT16; }

Storage StorageOf(tf::Var* var) {
  return var->tensor()->dtype() == tf::DT_BFLOAT16 ? Storage::kBfloat16 : Storage::kFloat32;
}

// Whether the variable can hold rows of `dim` floats. Its lock is held.
Status CheckTable(tf::Var* var, int64_t dim) {
  const tf::Tensor& table = *var->tensor();
  if (!var->is_initialized) return FailedPrecondition("the table is not initialized.");
  if (!IsStored(table.dtype()) || table.dims() != 2 || table.dim_size(1) != dim) {
    return InvalidArgument("the table must be a float or bfloat16 matrix of ", dim, " columns. Received: ",
                           tf::DataTypeString(table.dtype()), " of shape ", table.shape().DebugString(), ".");
  }
  return Status();
}

// How wide a slot must be depends on the optimizer, which row_matrix.h asks.
Status CheckSlot(tf::Var* var, int64_t rows) {
  const tf::Tensor& slot = *var->tensor();
  if (var->is_initialized && IsStored(slot.dtype()) && slot.dims() == 2 && slot.dim_size(0) == rows) return Status();
  return InvalidArgument("a slot must be an initialized float or bfloat16 matrix of ", rows, " rows. Received: ",
                         tf::DataTypeString(slot.dtype()), " of shape ", slot.shape().DebugString(), ".");
}

// The first number of a variable whose dtype has been checked.
void* Values(tf::Var* var) { return var->tensor()->data(); }

}  // namespace

Status VariableRowStore::View(RowMatrix* matrix) const {
  TFPS_RETURN_IF_ERROR(CheckTable(vars_[0].get(), dim_));
  matrix->table = Values(vars_[0].get());
  matrix->storage = StorageOf(vars_[0].get());
  matrix->rows = vars_[0]->tensor()->dim_size(0);
  matrix->dim = dim_;
  // Slot i is variable 1 + i.
  matrix->slot_count = static_cast<int>(vars_.size()) - 1;
  for (int i = 0; i < matrix->slot_count; ++i) {
    tf::Var* slot = vars_[1 + i].get();
    TFPS_RETURN_IF_ERROR(CheckSlot(slot, matrix->rows));
    matrix->slots[i] = {Values(slot), slot->tensor()->dim_size(1), StorageOf(slot)};
  }
  return Status();
}

Status VariableRowStore::CopyRows(const RowKeys& keys, const RowBuffer& out, const ParallelFor& parallel) {
  // Shared: lookups of several workers read beside each other, and none reads half of an update.
  tf::tf_shared_lock lock(*vars_[0]->mu());  // only the table is read, so its slots may be locked by whoever else
  TFPS_RETURN_IF_ERROR(CheckTable(vars_[0].get(), dim_));
  RowMatrix matrix;
  matrix.table = Values(vars_[0].get());
  matrix.storage = StorageOf(vars_[0].get());
  matrix.rows = vars_[0]->tensor()->dim_size(0);
  matrix.dim = dim_;
  return tfps::CopyRows(matrix, keys, out, parallel);
}

Status VariableRowStore::UpdateRows(const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys,
                                    const RowGradients& gradients, const ParallelFor& parallel) {
  const VariableLocks locks(vars_, LockMode::kExclusive);
  RowMatrix matrix;
  TFPS_RETURN_IF_ERROR(View(&matrix));
  TFPS_RETURN_IF_ERROR(CheckUpdate(matrix, updater, keys));
  // Copies a buffer that someone reads, so the matrix is viewed once more.
  for (const VarPtr& var : vars_) TFPS_RETURN_IF_ERROR(MakeWritable(context_, var.get()));
  TFPS_RETURN_IF_ERROR(View(&matrix));
  // Under the locks, so the number of an update is that of its place in the order of updates.
  if (!matrix.IsFloats()) matrix.update = UpdateNumbers::OfProcess().Next(vars_[0].get());
  tfps::UpdateRows(matrix, updater, hyperparameters, keys, gradients, parallel);
  // One relaxed load where no variable of this process is watched.
  // After the rows are written and before the locks go, as row_observer.h promises.
  const auto observer = VariableObservers::OfProcess().Find(vars_[0].get());
  if (observer != nullptr) observer->OnUpdate(keys.keys, keys.count);
  return Status();
}

Result<RowChunk> VariableRowStore::ScanRows(int64_t cursor, int64_t max_rows) const {
  // Shared, but of all: no update comes between the reading of a row and of its slots.
  const VariableLocks locks(vars_, LockMode::kShared);
  RowMatrix matrix;
  TFPS_RETURN_IF_ERROR(View(&matrix));
  // Copied out under the locks: nothing of a chunk can change any more.
  return tfps::ScanRows(matrix, cursor, max_rows);
}

}  // namespace tfps
