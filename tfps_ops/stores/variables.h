// tf.Variables as the ops use them: found by handle, locked, made writable.
//
// Locks: each tf.Variable has one, which guards its tensor, the tensor's shape and whether it is initialized.
//   - Reading rows takes the lock shared, so a reader never sees half an update of a row.
//   - An update takes the locks of a table and all its slots exclusively, so concurrent updates follow one another.
// Several locks are taken in the order of their addresses, as everywhere in TensorFlow: two threads that want the same
// variables cannot wait for each other. The lists of tables that a message names are worked through one table at a time, and
// no lock of one is held while the next is waited for.
#ifndef TFPS_OPS_STORES_VARIABLES_H_
#define TFPS_OPS_STORES_VARIABLES_H_

#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tfps_ops/core/status.h"

namespace tfps {

using VarPtr = ::tensorflow::core::RefCountPtr<::tensorflow::Var>;

// Finds the variable behind a handle. Its contents may only be looked at under its lock.
absl::Status FindVariable(::tensorflow::OpKernelContext* context, const ::tensorflow::Tensor& handle, VarPtr* var);

// Gives `var`, whose exclusive lock is held, a buffer of its own, and makes readers copy from now on: updates in place then
// cannot change what a dense read (a checkpoint, say) was given before. Costs a copy of the variable the first time.
Status MakeWritable(::tensorflow::OpKernelContext* context, ::tensorflow::Var* var);

enum class LockMode { kShared, kExclusive };

// Holds the locks of some variables, each once however often a variable is listed. They must outlive this.
class VariableLocks {
 public:
  VariableLocks(const std::vector<VarPtr>& vars, LockMode mode);
  ~VariableLocks();
  VariableLocks(const VariableLocks&) = delete;
  VariableLocks& operator=(const VariableLocks&) = delete;

 private:
  const LockMode mode_;
  std::vector<::tensorflow::mutex*> locks_;  // in the order of their addresses
};

}  // namespace tfps

#endif  // TFPS_OPS_STORES_VARIABLES_H_
