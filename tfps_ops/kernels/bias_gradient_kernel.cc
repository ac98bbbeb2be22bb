// Kernel of TfpsReluBiasGrad: unpacks tensors and calls core/bias_gradient.h.
//
// Threads: a Compute has no state but its tensors; columns are split over the device's threads. Errors: shapes that differ, before
// anything is written. Cost: one pass over two matrices.
#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/bias_gradient.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/status_conversion.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// A bfloat16 of TensorFlow is its bits.
const Bfloat16Bits* BitsOf(const tf::Tensor& tensor) { return static_cast<const Bfloat16Bits*>(tensor.data()); }

class ReluBiasGradOp : public tf::OpKernel {
 public:
  explicit ReluBiasGradOp(tf::OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &upstream = context->input(0), &results = context->input(1);
    OP_REQUIRES(context, upstream.dims() >= 1 && upstream.shape() == results.shape(),
                ToTensorFlow(InvalidArgument("`upstream` and `results` must have one shape of at least one dimension. "
                                             "Received: ", upstream.shape().DebugString(), " and ",
                                             results.shape().DebugString(), ".")));
    const int64_t columns = upstream.dim_size(upstream.dims() - 1);
    tf::Tensor *gradient = nullptr, *bias_gradient = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, upstream.shape(), &gradient));
    OP_REQUIRES_OK(context, context->allocate_output(1, tf::TensorShape({columns}), &bias_gradient));
    ReluBiasGradient work;
    work.upstream = BitsOf(upstream);
    work.results = BitsOf(results);
    work.rows = columns == 0 ? 0 : upstream.NumElements() / columns;
    work.columns = columns;
    work.gradient = static_cast<Bfloat16Bits*>(gradient->data());
    work.bias_gradient = static_cast<Bfloat16Bits*>(bias_gradient->data());
    ComputeReluBiasGradient(work, BestCpuTarget(), DeviceParallel(context));
  }
};

REGISTER_KERNEL_BUILDER(Name("TfpsReluBiasGrad").Device(tf::DEVICE_CPU), ReluBiasGradOp);

}  // namespace
}  // namespace tfps
