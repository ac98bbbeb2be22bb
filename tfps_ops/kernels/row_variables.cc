#include "tfps_ops/kernels/row_variables.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>

#include "tensorflow/core/framework/resource_mgr.h"

namespace tfps {

namespace tf = ::tensorflow;

absl::Status FindVariable(tf::OpKernelContext* context, const tf::Tensor& handle, VarPtr* var) {
  if (handle.NumElements() != 1) {
    return tf::errors::InvalidArgument("a variable's handle must be a scalar. Received: shape ",
                                       handle.shape().DebugString());
  }
  return tf::LookupResource(context, handle.flat<tf::ResourceHandle>()(0), var);
}

absl::Status CheckTable(tf::Var* var, int64_t dim, const PieceRows& piece, int64_t number) {
  const tf::Tensor& table = *var->tensor();
  if (!var->is_initialized) return tf::errors::FailedPrecondition("table ", number, " is not initialized");
  if (table.dtype() != tf::DT_FLOAT || table.dims() != 2 || table.dim_size(1) != dim) {
    return tf::errors::InvalidArgument("table ", number, " must be a float matrix of ", dim, " columns. Received: ",
                                       tf::DataTypeString(table.dtype()), " of shape ", table.shape().DebugString());
  }
  const std::string wrong = CheckRows(piece, table.dim_size(0));
  return wrong.empty() ? absl::OkStatus() : tf::errors::InvalidArgument("table ", number, ": ", wrong);
}

absl::Status CheckSlot(tf::Var* slot, tf::Var* table, int64_t width, int64_t number) {
  const tf::TensorShape wanted({table->tensor()->dim_size(0), width});
  if (slot->is_initialized && slot->tensor()->dtype() == tf::DT_FLOAT && slot->tensor()->shape() == wanted) {
    return absl::OkStatus();
  }
  return tf::errors::InvalidArgument("a slot of table ", number, " must be an initialized float variable of shape ",
                                     wanted.DebugString(), ". Received: ", tf::DataTypeString(slot->tensor()->dtype()),
                                     " of shape ", slot->tensor()->shape().DebugString());
}

absl::Status MakeWritable(tf::OpKernelContext* context, tf::Var* var) {
  if (var->copy_on_read_mode.load()) return absl::OkStatus();
  tf::Tensor* tensor = var->tensor();
  if (!tensor->RefCountIsOne()) {
    tf::Tensor copy;
    TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
    std::memcpy(copy.data(), tensor->data(), tensor->TotalBytes());
    *tensor = copy;
  }
  var->copy_on_read_mode.store(true);
  return absl::OkStatus();
}

ExclusiveLocks::ExclusiveLocks(const std::vector<VarPtr>& vars) {
  for (const VarPtr& var : vars) locks_.push_back(var->mu());
  std::sort(locks_.begin(), locks_.end(), std::less<>());
  locks_.erase(std::unique(locks_.begin(), locks_.end()), locks_.end());
  for (tf::mutex* lock : locks_) lock->lock();
}

ExclusiveLocks::~ExclusiveLocks() {
  for (tf::mutex* lock : locks_) lock->unlock();
}

}  // namespace tfps
