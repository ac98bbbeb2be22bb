// Kernel of TfpsSegmentSumRows: unpacks tensors and calls core/rows/segment_sum.h.
//
// Threads: a Compute has no state but its tensors. Errors: every position is checked before the first row is added, since a
// position outside would be a write outside. Cost: one pass over the positions for that, then see SegmentSum.
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/rows/segment_sum.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/status_conversion.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

class SegmentSumRowsOp : public tf::OpKernel {
 public:
  explicit SegmentSumRowsOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
  }

  void Compute(tf::OpKernelContext* context) override {
    // Inputs are the gradients, the inverse of each, and last how many rows there are.
    const tf::Tensor& rows = context->input(context->num_inputs() - 1);
    OP_REQUIRES_OK(context, CheckCount("num_rows", rows));
    const int64_t num_rows = rows.scalar<int64_t>()();
    std::vector<Segment> segments;
    OP_REQUIRES_OK(context, Unpack(context, num_rows, &segments));
    tf::Tensor* out = nullptr;
    tf::TensorShape shape;
    // num_rows comes with the message, so its product with dim may overflow: an error and no crash.
    OP_REQUIRES_OK(context, tf::TensorShape::BuildTensorShape({num_rows, dim_}, &shape));
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &out));
    SegmentSum(segments, num_rows, dim_, out->flat<float>().data(), DeviceParallel(context));
  }

 private:
  // Reads and checks every pair of gradients and positions.
  absl::Status Unpack(tf::OpKernelContext* context, int64_t num_rows, std::vector<Segment>* segments) const {
    tf::OpInputList gradients, positions;
    TF_RETURN_IF_ERROR(context->input_list("gradients", &gradients));
    TF_RETURN_IF_ERROR(context->input_list("inverse", &positions));
    for (int i = 0; i < gradients.size(); ++i) {
      // A lookup of ids [batch, n] has gradients [batch, n, dim]; in memory both are lists of rows.
      tf::TensorShape expected = positions[i].shape();
      TF_RETURN_IF_ERROR(expected.AddDimWithStatus(dim_));
      if (gradients[i].shape() != expected) {
        return ToTensorFlow(InvalidArgument("`gradients[", i, "]` must have the shape of `inverse[", i, "]` and dim, ",
                                            expected.DebugString(), ". Received: ", gradients[i].shape().DebugString(),
                                            "."));
      }
      // Nothing is copied: the sum reads the inputs where they are.
      segments->push_back({gradients[i].flat<float>().data(), positions[i].flat<int32_t>().data(),
                           positions[i].NumElements()});
      TF_RETURN_IF_ERROR(ToTensorFlow(CheckPositions(segments->back(), num_rows), "`inverse[", i, "]`"));
    }
    return absl::OkStatus();
  }

  int64_t dim_ = 0;
};

REGISTER_KERNEL_BUILDER(Name("TfpsSegmentSumRows").Device(tf::DEVICE_CPU), SegmentSumRowsOp);

}  // namespace
}  // namespace tfps
