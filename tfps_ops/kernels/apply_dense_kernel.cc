// Kernel of TfpsApplyDense: updates whole variables by the loops of core/row_updater.h, as tables whose rows all have a
// gradient.
//
// As a graph of TensorFlow's ops the formula reads and writes each variable several times, once for each operation. Here each
// element and its slots are read and written once, and the formula is that of the rows.
//
// Threads: a variable and its slots are locked exclusively while they are updated; large ones are split over threads.
// Errors: a gradient that does not fit leaves the variables before it updated. Cost: one pass over each variable.
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/status_conversion.h"
#include "tfps_ops/stores/variables.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// Floats of a row: enough for a vector loop, and few enough that what the loop fetches ahead is near.
constexpr int64_t kRow = 64;

// Gives `var`, whose exclusive lock is held, a buffer that no reader holds. Unlike MakeWritable it leaves readers free to
// share it after the update: each step reads the whole variable, and would copy it.
absl::Status DetachFromReaders(tf::OpKernelContext* context, tf::Var* var) {
  tf::Tensor* tensor = var->tensor();
  // The usual case: nobody reads the variable at this moment.
  if (tensor->RefCountIsOne()) return absl::OkStatus();
  tf::Tensor copy;
  TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
  std::memcpy(copy.data(), tensor->data(), tensor->TotalBytes());
  *tensor = copy;
  return absl::OkStatus();
}

class ApplyDenseOp : public tf::OpKernel {
 public:
  explicit ApplyDenseOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::string rule;
    int64_t variables = 0;
    OP_REQUIRES_OK(context, context->GetAttr("rule", &rule));
    OP_REQUIRES_OK(context, context->GetAttr("K", &variables));
    OP_REQUIRES_OK(context, context->GetAttr("T", &gradients_));
    auto updater = MakeRowUpdater(rule);
    OP_REQUIRES_OK(context, ToTensorFlow(updater));
    updater_ = std::move(updater.value());
    for (int i = 0; i < updater_->slots(); ++i) {
      // A variable is cut into rows of kRow floats, whatever its shape, so that nothing may depend on where a row ends.
      OP_REQUIRES(context, updater_->SlotWidth(i, kRow) == kRow,
                  ToTensorFlow(InvalidArgument("`rule` must work element by element. Received: ", rule,
                                               ", which has a slot with one number a row.")));
    }
    OP_REQUIRES(context, variables == gradients_ * (1 + updater_->slots()),
                ToTensorFlow(InvalidArgument("`variables` must be ", 1 + updater_->slots(), " for each of ", gradients_,
                                             " gradients. Received: ", variables, " in all.")));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& hyper = context->input(context->num_inputs() - 1);
    OP_REQUIRES(context, hyper.NumElements() == updater_->hyperparameters(),
                ToTensorFlow(InvalidArgument("`hyperparameters` must be ", updater_->hyperparameters(),
                                             " numbers. Received: shape ", hyper.shape().DebugString(), ".")));
    // One variable after another, each with its slots under its own locks.
    for (int64_t i = 0; i < gradients_; ++i) OP_REQUIRES_OK(context, Update(context, i, hyper.flat<float>().data()));
  }

 private:
  // Updates variable `number` and its slots.
  // Inputs are all variables, then the first slot of each, and so on; then the gradients; then the hyperparameters.
  absl::Status Update(tf::OpKernelContext* context, int64_t number, const float* hyper) const {
    const tf::Tensor& gradient = context->input(gradients_ * (1 + updater_->slots()) + number);
    std::vector<VarPtr> vars(1 + updater_->slots());
    for (size_t i = 0; i < vars.size(); ++i) {
      TF_RETURN_IF_ERROR(FindVariable(context, context->input(i * gradients_ + number), &vars[i]));
    }
    // Of all at once: a reader that locks them sees a variable and its slots of the same step.
    VariableLocks locks(vars, LockMode::kExclusive);
    for (const VarPtr& var : vars) {
      // The variable and all its slots have the shape of the gradient, so one check does for all.
      if (!var->is_initialized || var->tensor()->dtype() != tf::DT_FLOAT || var->tensor()->shape() != gradient.shape()) {
        return ToTensorFlow(InvalidArgument("variable ", number, " and its slots must be initialized float variables of "
                                            "its gradient's shape ", gradient.shape().DebugString(), ". Received: ",
                                            tf::DataTypeString(var->tensor()->dtype()), " of shape ",
                                            var->tensor()->shape().DebugString(), "."));
      }
      TF_RETURN_IF_ERROR(DetachFromReaders(context, var.get()));
    }
    // Elements of a variable do not mix, so it may be cut into rows of any length: whole rows of kRow, and one that is
    // shorter. Example: 150 elements are two rows of 64 and one of 22.
    const int64_t size = gradient.NumElements(), whole = size / kRow;
    Apply(context, vars, gradient, hyper, 0, whole, kRow);
    // The rest as a row of its own, of its own length.
    if (size % kRow != 0) Apply(context, vars, gradient, hyper, whole * kRow, 1, size % kRow);
    return absl::OkStatus();
  }

  // Updates `count` rows of `dim` floats that begin at element `first`.
  void Apply(tf::OpKernelContext* context, const std::vector<VarPtr>& vars, const tf::Tensor& gradient,
             const float* hyper, int64_t first, int64_t count, int64_t dim) const {
    // Every row has a gradient.
    std::vector<int64_t> rows(count);
    std::iota(rows.begin(), rows.end(), 0);
    RowBlock block;
    block.table = vars[0]->tensor()->flat<float>().data() + first;
    for (size_t i = 1; i < vars.size(); ++i) block.slots[i - 1] = vars[i]->tensor()->flat<float>().data() + first;
    block.rows = rows.data();
    block.gradients = gradient.flat<float>().data() + first;
    block.count = count;
    block.dim = dim;
    updater_->Apply(hyper, block, DeviceParallel(context));
  }

  std::unique_ptr<RowUpdater> updater_;
  int64_t gradients_ = 0;
};

REGISTER_KERNEL_BUILDER(Name("TfpsApplyDense").Device(tf::DEVICE_CPU), ApplyDenseOp);

}  // namespace
}  // namespace tfps
