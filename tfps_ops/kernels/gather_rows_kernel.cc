// Kernel of TfpsGatherRows: unpacks tensors and calls core/row_copy.h.
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/row_copy.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/row_variables.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

class GatherRowsOp : public tf::OpKernel {
 public:
  explicit GatherRowsOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
  }

  void Compute(tf::OpKernelContext* context) override {
    tf::OpInputList tables;
    OP_REQUIRES_OK(context, context->input_list("tables", &tables));
    const tf::Tensor& request = context->input(tables.size());
    OP_REQUIRES(context, request.dims() == 1,
                tf::errors::InvalidArgument("`request` must be a vector. Received: shape ",
                                            request.shape().DebugString()));
    std::vector<PieceRows> pieces;
    const std::string wrong =
        ReadRequest(request.flat<int64_t>().data(), request.NumElements(), tables.size(), &pieces);
    OP_REQUIRES(context, wrong.empty(), tf::errors::InvalidArgument(wrong));
    tf::TensorShape shape;
    OP_REQUIRES_OK(context, tf::TensorShape::BuildTensorShape({request.NumElements() - tables.size(), dim_}, &shape));
    tf::Tensor* rows = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &rows));
    for (int i = 0; i < tables.size(); ++i) {
      float* out = rows->flat<float>().data() + pieces[i].first * dim_;
      if (pieces[i].count > 0) OP_REQUIRES_OK(context, Gather(context, i, pieces[i], out));
    }
  }

 private:
  // Copies the rows of one table, under its lock.
  absl::Status Gather(tf::OpKernelContext* context, int table, const PieceRows& piece, float* out) const {
    VarPtr var;
    TF_RETURN_IF_ERROR(FindVariable(context, context->input(table), &var));
    tf::tf_shared_lock lock(*var->mu());
    TF_RETURN_IF_ERROR(CheckTable(var.get(), dim_, piece, table));
    CopyRows(var->tensor()->flat<float>().data(), piece, dim_, out, DeviceParallel(context));
    return absl::OkStatus();
  }

  int64_t dim_ = 0;
};

REGISTER_KERNEL_BUILDER(Name("TfpsGatherRows").Device(tf::DEVICE_CPU), GatherRowsOp);

}  // namespace
}  // namespace tfps
