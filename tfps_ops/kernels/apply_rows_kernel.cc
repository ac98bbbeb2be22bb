// Kernel of TfpsApplyRows: unpacks tensors, holds the locks and calls core/row_updater.h.
#include <memory>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/row_variables.h"
#include "tfps_ops/stores/variable_observers.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

class ApplyRowsOp : public tf::OpKernel {
 public:
  explicit ApplyRowsOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::string rule;
    int64_t variables = 0;
    OP_REQUIRES_OK(context, context->GetAttr("rule", &rule));
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
    OP_REQUIRES_OK(context, context->GetAttr("tables", &tables_));
    OP_REQUIRES_OK(context, context->GetAttr("K", &variables));
    updater_ = MakeRowUpdater(rule);
    OP_REQUIRES(context, updater_ != nullptr,
                tf::errors::InvalidArgument("`rule` must be a row optimizer's name. Received: ", rule));
    OP_REQUIRES(context, variables == tables_ * (1 + updater_->slots()),
                tf::errors::InvalidArgument("`variables` must be ", 1 + updater_->slots(), " for each of ", tables_,
                                            " tables. Received: ", variables, " in all"));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& message = context->input(context->num_inputs() - 1);
    OP_REQUIRES(context, message.dims() == 1,
                tf::errors::InvalidArgument("`message` must be a vector. Received: shape ",
                                            message.shape().DebugString()));
    RowUpdate update;
    const std::string wrong = ReadUpdate(message.flat<float>().data(), message.NumElements(),
                                         updater_->hyperparameters(), tables_, dim_, &update);
    OP_REQUIRES(context, wrong.empty(), tf::errors::InvalidArgument(wrong));
    for (int64_t table = 0; table < tables_; ++table) {
      if (update.pieces[table].count > 0) OP_REQUIRES_OK(context, Update(context, table, update));
    }
  }

 private:
  // Brings the rows of one table up to date, all of them under its locks.
  absl::Status Update(tf::OpKernelContext* context, int64_t table, const RowUpdate& update) const {
    std::vector<VarPtr> vars(1 + updater_->slots());
    for (size_t i = 0; i < vars.size(); ++i) {
      TF_RETURN_IF_ERROR(FindVariable(context, context->input(i * tables_ + table), &vars[i]));
    }
    ExclusiveLocks locks(vars);
    TF_RETURN_IF_ERROR(CheckTable(vars[0].get(), dim_, update.pieces[table], table));
    for (const VarPtr& var : vars) {
      TF_RETURN_IF_ERROR(CheckSlot(var.get(), vars[0].get(), table));
      TF_RETURN_IF_ERROR(MakeWritable(context, var.get()));
    }
    updater_->Apply(update.hyperparameters, BlockOf(vars, update, table), DeviceParallel(context));
    const auto observer = VariableObservers::OfProcess().Find(vars[0].get());
    if (observer != nullptr) observer->OnUpdate(update.pieces[table].rows, update.pieces[table].count);
    return absl::OkStatus();
  }

  RowBlock BlockOf(const std::vector<VarPtr>& vars, const RowUpdate& update, int64_t table) const {
    const PieceRows& piece = update.pieces[table];
    RowBlock block;
    block.table = vars[0]->tensor()->flat<float>().data();
    for (size_t i = 1; i < vars.size(); ++i) block.slots[i - 1] = vars[i]->tensor()->flat<float>().data();
    block.rows = piece.rows;
    block.gradients = update.gradients + piece.first * dim_;
    block.count = piece.count;
    block.dim = dim_;
    return block;
  }

  std::unique_ptr<RowUpdater> updater_;
  int64_t dim_ = 0;
  int64_t tables_ = 0;
};

REGISTER_KERNEL_BUILDER(Name("TfpsApplyRows").Device(tf::DEVICE_CPU), ApplyRowsOp);

}  // namespace
}  // namespace tfps
