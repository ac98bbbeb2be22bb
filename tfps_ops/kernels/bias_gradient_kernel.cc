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

// TensorFlow's float and bfloat16 are their bits.
template <typename Bits>
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
    ReluBiasGradient<Bits> work;
    work.upstream = static_cast<const Bits*>(upstream.data());
    work.results = static_cast<const Bits*>(results.data());
    work.rows = columns == 0 ? 0 : upstream.NumElements() / columns;
    work.columns = columns;
    work.gradient = static_cast<Bits*>(gradient->data());
    work.bias_gradient = static_cast<Bits*>(bias_gradient->data());
    ComputeReluBiasGradient(work, BestCpuTarget(), DeviceParallel(context));
  }
};

REGISTER_KERNEL_BUILDER(Name("TfpsReluBiasGrad").Device(tf::DEVICE_CPU).TypeConstraint<float>("T"), ReluBiasGradOp<Float32Bits>);
REGISTER_KERNEL_BUILDER(Name("TfpsReluBiasGrad").Device(tf::DEVICE_CPU).TypeConstraint<tf::bfloat16>("T"),
                        ReluBiasGradOp<Bfloat16Bits>);

}  // namespace
}  // namespace tfps
