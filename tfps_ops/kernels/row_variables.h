// The variables of a server as the kernels use them: found by handle, checked, locked.
//
// Locks: each tf.Variable has one. A gather holds that of the table shared while it copies that table's rows, so it never
// sees half a row's update. An update holds those of the table and its slots exclusively while it updates that table's
// rows, so concurrent updates never lose one another. Locks are taken in the order of their addresses, as all of TensorFlow does.
// Tables are served one after another: requests of several workers follow each other through them.
#ifndef TFPS_OPS_KERNELS_ROW_VARIABLES_H_
#define TFPS_OPS_KERNELS_ROW_VARIABLES_H_

#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tfps_ops/core/row_request.h"

namespace tfps {

using VarPtr = ::tensorflow::core::RefCountPtr<::tensorflow::Var>;

// The variable behind a handle. What is in it may only be looked at under its lock.
absl::Status FindVariable(::tensorflow::OpKernelContext* context, const ::tensorflow::Tensor& handle, VarPtr* var);

// That `var`, whose lock is held, is an initialised [any, dim] matrix of floats which has every row of `piece`; `number`
// is what the message calls it.
absl::Status CheckTable(::tensorflow::Var* var, int64_t dim, const PieceRows& piece, int64_t number);

// That `slot` is an initialised matrix of floats with as many rows as `table`, which is number `number`, and `width` columns;
// both locks are held.
absl::Status CheckSlot(::tensorflow::Var* slot, ::tensorflow::Var* table, int64_t width, int64_t number);

// Gives `var`, whose exclusive lock is held, a buffer that no reader holds, and makes readers copy from now on: updates in
// place then cannot change what a dense read (a checkpoint, say) has already been given.
absl::Status MakeWritable(::tensorflow::OpKernelContext* context, ::tensorflow::Var* var);

// Holds the exclusive locks of some variables, each once however often it is named.
class ExclusiveLocks {
 public:
  explicit ExclusiveLocks(const std::vector<VarPtr>& vars);
  ~ExclusiveLocks();
  ExclusiveLocks(const ExclusiveLocks&) = delete;
  ExclusiveLocks& operator=(const ExclusiveLocks&) = delete;

 private:
  std::vector<::tensorflow::mutex*> locks_;
};

}  // namespace tfps

#endif  // TFPS_OPS_KERNELS_ROW_VARIABLES_H_
