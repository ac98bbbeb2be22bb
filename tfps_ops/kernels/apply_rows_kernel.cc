// Kernel of TfpsApplyRows: unpacks the message and updates the RowStore of each table.
//
// Threads: as for the gather, but each table and its slots are locked exclusively, so updates of one table follow one another.
// Errors: a message that is wrong as a whole changes nothing. One that is wrong for a table leaves the tables before it
// updated. Cost: a copy of the request, which is not aligned in the message, and a fetch from memory for each row and slot.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/core/rows/row_request.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/status_conversion.h"
#include "tfps_ops/stores/open_row_store.h"

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
    OP_REQUIRES_OK(context, context->GetAttr("any_key", &any_key_));
    OP_REQUIRES_OK(context, context->GetAttr("K", &variables));
    // Made once: an updater keeps no state, so all calls of this op may share it.
    auto updater = MakeRowUpdater(rule);
    OP_REQUIRES_OK(context, ToTensorFlow(updater));
    updater_ = std::move(updater.value());
    OP_REQUIRES(context, variables == tables_ * (1 + updater_->slots()),
                ToTensorFlow(InvalidArgument("`variables` must be ", 1 + updater_->slots(), " for each of ", tables_,
                                             " tables. Received: ", variables, " in all.")));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& message = context->input(context->num_inputs() - 1);
    OP_REQUIRES_OK(context, CheckVector("message", message));
    const auto update = ReadUpdate(message.flat<float>().data(), message.NumElements(), updater_->hyperparameters(),
                                   tables_, dim_, any_key_);
    OP_REQUIRES_OK(context, ToTensorFlow(update));
    // One table after another, each under its own locks: requests of several workers follow each other through the tables,
    // and a wrong message leaves the tables before the one it names updated.
    for (int64_t table = 0; table < tables_; ++table) {
      if (update.value().pieces[table].count == 0) continue;  // its locks need not be waited for
      OP_REQUIRES_OK(context, Update(context, table, update.value()));
    }
  }

 private:
  // Updates the rows of one table.
  absl::Status Update(tf::OpKernelContext* context, int64_t table, const RowUpdate& update) const {
    // Inputs are all tables, then the first slot of every table, then the second: table t's are every tables_-th one.
    std::vector<const tf::Tensor*> handles;
    for (int i = 0; i <= updater_->slots(); ++i) handles.push_back(&context->input(i * tables_ + table));
    std::unique_ptr<RowStore> store;
    TF_RETURN_IF_ERROR(OpenRowStore(context, handles, dim_, &store));
    // Gradients lie in the order of the request: this table's begin behind those of the tables before it.
    const PieceRows& piece = update.pieces[table];
    const float* const* measures = update.measures.empty() ? nullptr : update.measures.data() + piece.first;
    return ToTensorFlow(store->UpdateRows(*updater_, update.hyperparameters, {piece.rows, piece.count},
                                          {update.gradients + piece.first * dim_, measures}, DeviceParallel(context)),
                        "table ", table);
  }

  std::unique_ptr<RowUpdater> updater_;
  int64_t dim_ = 0;
  int64_t tables_ = 0;
  bool any_key_ = false;
};

REGISTER_KERNEL_BUILDER(Name("TfpsApplyRows").Device(tf::DEVICE_CPU), ApplyRowsOp);

}  // namespace
}  // namespace tfps
