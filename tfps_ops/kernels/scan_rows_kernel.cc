// Kernel of TfpsScanRows: copies a chunk of a RowStore into tensors.
//
// Threads: the rows of a chunk and their slots are read under their locks together; updates go on between chunks.
// Cost: two copies of the chunk, one of them under the locks.
#include <algorithm>
#include <memory>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/kernels/status_conversion.h"
#include "tfps_ops/stores/open_row_store.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

class ScanRowsOp : public tf::OpKernel {
 public:
  explicit ScanRowsOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("K", &variables_));
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
    OP_REQUIRES_OK(context, context->GetAttr("max_rows", &max_rows_));
    // A RowMatrix has room for so many slots.
    OP_REQUIRES(context, variables_ <= 1 + kMaxSlots,
                ToTensorFlow(InvalidArgument("`variables` must be a table and at most ", kMaxSlots,
                                             " slots. Received: ", variables_, " variables.")));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& cursor = context->input(variables_);
    OP_REQUIRES_OK(context, CheckCount("cursor", cursor));
    // The table and its slots; a scan reads them under their locks together.
    std::vector<const tf::Tensor*> handles;
    for (int i = 0; i < variables_; ++i) handles.push_back(&context->input(i));
    std::unique_ptr<RowStore> store;
    OP_REQUIRES_OK(context, OpenRowStore(context, handles, dim_, &store));
    // The rows are copied under the locks and into tensors after them: updates wait for the first copy only.
    const auto chunk = store->ScanRows(cursor.scalar<int64_t>()(), max_rows_);
    OP_REQUIRES_OK(context, ToTensorFlow(chunk));
    OP_REQUIRES_OK(context, Write(context, chunk.value()));
  }

 private:
  // Outputs are the keys, then the rows and each slot, then the cursor.
  absl::Status Write(tf::OpKernelContext* context, const RowChunk& chunk) const {
    // Rows and slots are parallel: row i of each belongs to key i.
    const int64_t rows = static_cast<int64_t>(chunk.keys.size());
    tf::Tensor *keys = nullptr, *cursor = nullptr;
    TF_RETURN_IF_ERROR(context->allocate_output(0, {rows}, &keys));
    std::copy(chunk.keys.begin(), chunk.keys.end(), keys->flat<int64_t>().data());
    TF_RETURN_IF_ERROR(WriteMatrix(context, 1, rows, dim_, chunk.rows));
    for (size_t i = 0; i < chunk.slots.size(); ++i) {
      // A chunk of no rows does not say how wide its slots are; nor is there a reader who could tell.
      const int64_t width = rows == 0 ? 0 : static_cast<int64_t>(chunk.slots[i].size()) / rows;
      TF_RETURN_IF_ERROR(WriteMatrix(context, 2 + i, rows, width, chunk.slots[i]));
    }
    // Where the next chunk begins; the caller hands it back, so nothing of a scan is kept between two calls.
    TF_RETURN_IF_ERROR(context->allocate_output(1 + variables_, {}, &cursor));
    cursor->scalar<int64_t>()() = chunk.cursor;
    return absl::OkStatus();
  }

  // Copies one part of the chunk into an output.
  static absl::Status WriteMatrix(tf::OpKernelContext* context, int output, int64_t rows, int64_t width,
                                  const std::vector<float>& values) {
    tf::Tensor* matrix = nullptr;
    TF_RETURN_IF_ERROR(context->allocate_output(output, {rows, width}, &matrix));
    std::copy(values.begin(), values.end(), matrix->flat<float>().data());
    return absl::OkStatus();
  }

  int64_t variables_ = 0;
  int64_t dim_ = 0;
  int64_t max_rows_ = 0;
};

REGISTER_KERNEL_BUILDER(Name("TfpsScanRows").Device(tf::DEVICE_CPU), ScanRowsOp);

}  // namespace
}  // namespace tfps
