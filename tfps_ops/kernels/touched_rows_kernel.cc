// Kernels of TfpsWatchRows and TfpsTouchedRows: find the variable and call its core/stores/touched_rows.h.
//
// Threads: any number may watch and ask while updates run. Cost of asking: see TouchedRows::Since; updates wait for it, as
// they write to the same record.
#include <algorithm>
#include <memory>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/kernels/status_conversion.h"
#include "tfps_ops/stores/variable_observers.h"
#include "tfps_ops/stores/variables.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// TfpsWatchRows: makes a variable record the rows of its updates from now on.
class WatchRowsOp : public tf::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    VarPtr var;
    OP_REQUIRES_OK(context, FindVariable(context, context->input(0), &var));
    tf::mutex_lock lock(*var->mu());  // as Watch demands
    VariableObservers::OfProcess().Watch(var.get());
  }
};

// TfpsTouchedRows: reads that record.
class TouchedRowsOp : public tf::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& cursor = context->input(1);
    OP_REQUIRES(context, tf::TensorShapeUtils::IsScalar(cursor.shape()),
                ToTensorFlow(InvalidArgument("`cursor` must be a scalar. Received: shape ",
                                             cursor.shape().DebugString(), ".")));
    VarPtr var;
    OP_REQUIRES_OK(context, FindVariable(context, context->input(0), &var));
    const std::shared_ptr<TouchedRows> touched = Find(var.get());
    OP_REQUIRES(context, touched != nullptr,
                ToTensorFlow(FailedPrecondition("`variable` must be watched by TfpsWatchRows before its touched rows are "
                                                "asked for. Received: a variable that nobody watches.")));
    // An update that comes between the look and this call is in the answer or in the next one; either is right.
    const Result<RowsSince> since = touched->Since(cursor.scalar<int64_t>()());
    OP_REQUIRES_OK(context, ToTensorFlow(since));
    Write(context, since.value());
  }

 private:
  // The lock is held for the look only: an update may go on while the rows are listed.
  static std::shared_ptr<TouchedRows> Find(tf::Var* var) {
    tf::tf_shared_lock lock(*var->mu());
    return VariableObservers::OfProcess().Find(var);
  }

  // Outputs are the rows and the next cursor.
  static void Write(tf::OpKernelContext* context, const RowsSince& since) {
    tf::Tensor *rows = nullptr, *next = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, {static_cast<int64_t>(since.rows.size())}, &rows));
    OP_REQUIRES_OK(context, context->allocate_output(1, {}, &next));
    // A copy, because the record continues to grow.
    std::copy(since.rows.begin(), since.rows.end(), rows->flat<int64_t>().data());
    next->scalar<int64_t>()() = since.cursor;
  }
};

REGISTER_KERNEL_BUILDER(Name("TfpsWatchRows").Device(tf::DEVICE_CPU), WatchRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsTouchedRows").Device(tf::DEVICE_CPU), TouchedRowsOp);

}  // namespace
}  // namespace tfps
