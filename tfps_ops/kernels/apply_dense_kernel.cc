// Kernel of TfpsApplyDense: a variable is taken for a table whose rows all have a gradient, for core/row_updater.h.
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/kernels/device_parallel.h"
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
    updater_ = MakeRowUpdater(rule);
    OP_REQUIRES(context, updater_ != nullptr,
                tf::errors::InvalidArgument("`rule` must be a row optimizer's name. Received: ", rule));
    OP_REQUIRES(context, variables == gradients_ * (1 + updater_->slots()),
                tf::errors::InvalidArgument("`variables` must be ", 1 + updater_->slots(), " for each of ", gradients_,
                                            " gradients. Received: ", variables, " in all"));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& hyper = context->input(context->num_inputs() - 1);
    OP_REQUIRES(context, hyper.NumElements() == updater_->hyperparameters(),
                tf::errors::InvalidArgument("`hyperparameters` must be ", updater_->hyperparameters(),
                                            " numbers. Received: shape ", hyper.shape().DebugString()));
    for (int64_t i = 0; i < gradients_; ++i) OP_REQUIRES_OK(context, Update(context, i, hyper.flat<float>().data()));
  }

 private:
  absl::Status Update(tf::OpKernelContext* context, int64_t number, const float* hyper) const {
    const tf::Tensor& gradient = context->input(gradients_ * (1 + updater_->slots()) + number);
    std::vector<VarPtr> vars(1 + updater_->slots());
    for (size_t i = 0; i < vars.size(); ++i) {
      TF_RETURN_IF_ERROR(FindVariable(context, context->input(i * gradients_ + number), &vars[i]));
    }
    VariableLocks locks(vars, LockMode::kExclusive);
    for (const VarPtr& var : vars) {
      if (!var->is_initialized || var->tensor()->dtype() != tf::DT_FLOAT || var->tensor()->shape() != gradient.shape()) {
        return tf::errors::InvalidArgument("variable ", number, " and its slots must be initialized float variables of "
                                           "its gradient's shape ", gradient.shape().DebugString(), ". Received: ",
                                           tf::DataTypeString(var->tensor()->dtype()), " of shape ",
                                           var->tensor()->shape().DebugString());
      }
      TF_RETURN_IF_ERROR(DetachFromReaders(context, var.get()));
    }
    const int64_t size = gradient.NumElements(), whole = size / kRow;
    Apply(context, vars, gradient, hyper, 0, whole, kRow);
    if (size % kRow != 0) Apply(context, vars, gradient, hyper, whole * kRow, 1, size % kRow);
    return absl::OkStatus();
  }

  // Updates `count` rows of `dim` floats that begin at element `first`.
  void Apply(tf::OpKernelContext* context, const std::vector<VarPtr>& vars, const tf::Tensor& gradient,
             const float* hyper, int64_t first, int64_t count, int64_t dim) const {
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
