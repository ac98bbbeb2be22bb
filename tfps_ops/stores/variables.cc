// The few things that every op on variables does, in one place, because each of them has to be right about locks.
#include "tfps_ops/stores/variables.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "tensorflow/core/framework/resource_mgr.h"

namespace tfps {

namespace tf = ::tensorflow;

absl::Status FindVariable(tf::OpKernelContext* context, const tf::Tensor& handle, VarPtr* var) {
  if (handle.NumElements() != 1) {
    return absl::InvalidArgumentError(
        Concatenated("a variable's handle must be a scalar. Received: shape ", handle.shape().DebugString(), "."));
  }
  // A reference is held from here on: the variable cannot go while it is used.
  return tf::LookupResource(context, handle.flat<tf::ResourceHandle>()(0), var);
}

Status MakeWritable(tf::OpKernelContext* context, tf::Var* var) {
  // In this mode nobody shares the buffer any more, so there is nothing to check at each update.
  if (var->copy_on_read_mode.load()) return Status();
  tf::Tensor* tensor = var->tensor();
  if (!tensor->RefCountIsOne()) {
    tf::Tensor copy;
    const absl::Status allocated = context->allocate_temp(tensor->dtype(), tensor->shape(), &copy);
    if (!allocated.ok()) {
      return ResourceExhausted("no memory for a copy of a variable that is being read, shape ",
                               tensor->shape().DebugString(), ": ", allocated.message());
    }
    // Someone else refers to the buffer: it is theirs from now on, and the variable continues with the copy.
    std::memcpy(copy.data(), tensor->data(), tensor->TotalBytes());
    *tensor = copy;
  }
  var->copy_on_read_mode.store(true);
  return Status();
}

VariableLocks::VariableLocks(const std::vector<VarPtr>& vars, LockMode mode) : mode_(mode) {
  locks_.reserve(vars.size());
  for (const VarPtr& var : vars) locks_.push_back(var->mu());
  // One order for everybody, so that no two threads wait for each other; and a mutex that is listed twice would wait for
  // itself.
  std::sort(locks_.begin(), locks_.end(), std::less<>());
  locks_.erase(std::unique(locks_.begin(), locks_.end()), locks_.end());
  for (tf::mutex* lock : locks_) mode_ == LockMode::kExclusive ? lock->lock() : lock->lock_shared();
}

VariableLocks::~VariableLocks() {
  for (tf::mutex* lock : locks_) mode_ == LockMode::kExclusive ? lock->unlock() : lock->unlock_shared();
}

}  // namespace tfps
