// Kernel of TfpsGatherRows: unpacks tensors and calls the RowStore of each table.
//
// Threads: any number of Computes run at once; each table is locked by its own store while its rows are copied, so a request
// of several tables is not of one moment, but each table's rows are.
// Errors: a wrong request is refused before any table is locked, a wrong row before its table's rows are copied.
// Cost: a lookup of each handle, and a fetch from memory for each row; large requests are split over threads by rows.
#include <memory>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/rows/row_request.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/status_conversion.h"
#include "tfps_ops/stores/open_row_store.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// Reads only: many lookups run at a time, and an update of a table waits for those that copy its rows at that moment.
class GatherRowsOp : public tf::OpKernel {
 public:
  explicit GatherRowsOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
    OP_REQUIRES_OK(context, context->GetAttr("training", &training_));
    tf::DataType dtype;
    OP_REQUIRES_OK(context, context->GetAttr("T", &dtype));
    storage_ = dtype == tf::DT_BFLOAT16 ? Storage::kBfloat16 : Storage::kFloat32;
  }

  void Compute(tf::OpKernelContext* context) override {
    // Inputs are the handles of the tables and, last, the request.
    tf::OpInputList tables;
    OP_REQUIRES_OK(context, context->input_list("tables", &tables));
    const tf::Tensor& request = context->input(tables.size());
    OP_REQUIRES_OK(context, CheckVector("request", request));
    // The request says how many rows each table has in it; a message that does not add up is refused here.
    const auto pieces = ReadRequest(request.flat<int64_t>().data(), request.NumElements(), tables.size());
    OP_REQUIRES_OK(context, ToTensorFlow(pieces));
    tf::TensorShape shape;
    // All rows lie in one matrix, table after table, so the answer crosses to the worker as one tensor.
    OP_REQUIRES_OK(context, tf::TensorShape::BuildTensorShape({request.NumElements() - tables.size(), dim_}, &shape));
    tf::Tensor* rows = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &rows));
    for (int i = 0; i < tables.size(); ++i) {
      const PieceRows& piece = pieces.value()[i];
      if (piece.count == 0) continue;  // its lock need not be waited for, and its table need not be there yet
      const RowBuffer all(rows->data(), storage_);
      OP_REQUIRES_OK(context, Gather(context, i, piece, {all.At(piece.first * dim_), storage_}));
    }
  }

 private:
  // Copies the rows of one table to `out`, [piece.count, dim].
  absl::Status Gather(tf::OpKernelContext* context, int table, const PieceRows& piece, const RowBuffer& out) const {
    // Opened for this call: between two of them the variable may have been replaced.
    std::unique_ptr<RowStore> store;
    TF_RETURN_IF_ERROR(OpenRowStore(context, {&context->input(table)}, dim_, &store, training_));
    return ToTensorFlow(store->CopyRows({piece.rows, piece.count}, out, DeviceParallel(context)), "table ", table);
  }

  int64_t dim_ = 0;
  bool training_ = false;
  Storage storage_ = Storage::kFloat32;  // of the answer
};

REGISTER_KERNEL_BUILDER(Name("TfpsGatherRows").Device(tf::DEVICE_CPU), GatherRowsOp);

}  // namespace
}  // namespace tfps
