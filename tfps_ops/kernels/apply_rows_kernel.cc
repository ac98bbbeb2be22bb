// Kernels of the TfpsApplyRows ops: unpack tensors, hold the locks and call core/row_updater.h.
#include <memory>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/row_updater_factory.h"
#include "tfps_ops/kernels/row_variables.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// One kernel for every rule; which one, the factory reads from the op's name and attributes.
class ApplyRowsOp : public tf::OpKernel {
 public:
  explicit ApplyRowsOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
    OP_REQUIRES_OK(context, context->GetAttr("N", &tables_));
    OP_REQUIRES_OK(context, RowUpdaterOf(context, &updater_));
    int64_t slots = 0;
    if (context->HasAttr("K")) OP_REQUIRES_OK(context, context->GetAttr("K", &slots));
    OP_REQUIRES(context, slots == tables_ * updater_->slots(),
                tf::errors::InvalidArgument("`slots` must be ", updater_->slots(), " for each of ", tables_,
                                            " tables. Received: ", slots, " in all"));
  }

  void Compute(tf::OpKernelContext* context) override {
    StepInputs inputs;
    OP_REQUIRES_OK(context, ReadInputs(context, &inputs));
    const tf::Tensor *gradients, *request;
    OP_REQUIRES_OK(context, context->input("gradients", &gradients));
    OP_REQUIRES_OK(context, context->input("request", &request));
    OP_REQUIRES(context, request->dims() == 1,
                tf::errors::InvalidArgument("`request` must be a vector. Received: shape ",
                                            request->shape().DebugString()));
    std::vector<PieceRows> pieces;
    const std::string wrong = ReadRequest(request->flat<int64_t>().data(), request->NumElements(), tables_, &pieces);
    OP_REQUIRES(context, wrong.empty(), tf::errors::InvalidArgument(wrong));
    const int64_t rows = request->NumElements() - tables_;
    OP_REQUIRES(context,
                gradients->dims() == 2 && gradients->dim_size(0) == rows && gradients->dim_size(1) == dim_,
                tf::errors::InvalidArgument("`gradients` must be [", rows, ",", dim_, "], a row for each of the ",
                                            "request's. Received: shape ", gradients->shape().DebugString()));
    for (int i = 0; i < tables_; ++i) {
      const absl::Status status = Update(context, i, inputs, pieces[i], gradients->flat<float>().data());
      OP_REQUIRES(context, status.ok(), tf::errors::CreateWithUpdatedMessage(
          status, tf::strings::StrCat("`tables[", i, "]`: ", status.message())));
    }
  }

 private:
  static absl::Status ReadInputs(tf::OpKernelContext* context, StepInputs* inputs) {
    const tf::Tensor* tensor = nullptr;
    TF_RETURN_IF_ERROR(context->input("learning_rate", &tensor));
    if (tensor->dims() != 0) {
      return tf::errors::InvalidArgument("`learning_rate` must be a scalar. Received: shape ",
                                         tensor->shape().DebugString());
    }
    inputs->learning_rate = tensor->scalar<float>()();
    if (!context->input("step", &tensor).ok()) return absl::OkStatus();
    if (tensor->dims() != 0 || tensor->scalar<int64_t>()() < 1) {
      return tf::errors::InvalidArgument("`step` must be a scalar, at least 1. Received: ",
                                         tensor->SummarizeValue(4), " of shape ", tensor->shape().DebugString());
    }
    inputs->step = tensor->scalar<int64_t>()();
    return absl::OkStatus();
  }

  // The table's variable, then its slots. Inputs are the tables, then slot 0 of every table, then slot 1 of every table.
  absl::Status Find(tf::OpKernelContext* context, int table, std::vector<VarPtr>* vars) const {
    for (int slot = 0; slot <= updater_->slots(); ++slot) {
      vars->emplace_back();
      TF_RETURN_IF_ERROR(FindVariable(context, context->input(slot * tables_ + table), &vars->back()));
    }
    return absl::OkStatus();
  }

  // Brings the rows of one table up to date, all of them under its locks.
  absl::Status Update(tf::OpKernelContext* context, int table, const StepInputs& inputs, const PieceRows& piece,
                      const float* gradients) const {
    if (piece.count == 0) return absl::OkStatus();
    std::vector<VarPtr> vars;
    TF_RETURN_IF_ERROR(Find(context, table, &vars));
    ExclusiveLocks locks(vars);
    TF_RETURN_IF_ERROR(CheckTable(vars[0].get(), dim_, piece));
    for (const VarPtr& var : vars) {
      TF_RETURN_IF_ERROR(CheckSlot(var.get(), vars[0].get()));
      TF_RETURN_IF_ERROR(MakeWritable(context, var.get()));
    }
    RowBlock block;
    block.table = vars[0]->tensor()->flat<float>().data();
    for (int i = 0; i < updater_->slots(); ++i) block.slots[i] = vars[i + 1]->tensor()->flat<float>().data();
    block.rows = piece.rows;
    block.gradients = gradients + piece.first * dim_;
    block.count = piece.count;
    block.dim = dim_;
    updater_->Apply(inputs, block, DeviceParallel(context));
    return absl::OkStatus();
  }

  std::unique_ptr<RowUpdater> updater_;
  int64_t dim_ = 0;
  int64_t tables_ = 0;
};

REGISTER_KERNEL_BUILDER(Name("TfpsApplyRowsSgd").Device(tf::DEVICE_CPU), ApplyRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsApplyRowsMomentum").Device(tf::DEVICE_CPU), ApplyRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsApplyRowsAdagrad").Device(tf::DEVICE_CPU), ApplyRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsApplyRowsAdam").Device(tf::DEVICE_CPU), ApplyRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsApplyRowsRmsprop").Device(tf::DEVICE_CPU), ApplyRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsApplyRowsFtrl").Device(tf::DEVICE_CPU), ApplyRowsOp);

}  // namespace
}  // namespace tfps
