// Kernel of TfpsDrawTargets: unpacks tensors and calls core/negative_sampler.h.
//
// Threads: a Compute has no state but its tensors. Errors: the alias table and the positives are checked before the first
// draw. Cost: one pass over the alias table, and a draw for each negative.
#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/negative_sampler.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/status_conversion.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// Rows fit the 32 bits that an alias table has for them, and a draw is a product of two numbers of 32 bits.
constexpr int64_t kMaxRows = int64_t{1} << 31;

class DrawTargetsOp : public tf::OpKernel {
 public:
  explicit DrawTargetsOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("rows", &rows_));
    OP_REQUIRES_OK(context, context->GetAttr("negatives", &negatives_));
    OP_REQUIRES(context, rows_ >= 2 && rows_ <= kMaxRows,
                ToTensorFlow(InvalidArgument("`rows` must be 2 to 2^31. Received: ", rows_, ".")));
    OP_REQUIRES(context, negatives_ >= 1 && negatives_ < kMaxRows,
                ToTensorFlow(InvalidArgument("`negatives` must be 1 to 2^31 - 1. Received: ", negatives_, ".")));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& positives = context->input(0);
    // Inputs are the positives, the alias table and the seed.
    NegativeSampler sampler;
    OP_REQUIRES_OK(context, CheckVector("positives", positives));
    OP_REQUIRES_OK(context, ReadSampler(context->input(1), context->input(2), &sampler));
    // A positive outside the rows would never be drawn, and its own row is that of another table.
    const int64_t* values = positives.flat<int64_t>().data();
    OP_REQUIRES_OK(context, ToTensorFlow(CheckPositives(sampler, values, positives.NumElements())));
    tf::TensorShape shape;
    OP_REQUIRES_OK(context,
                   tf::TensorShape::BuildTensorShape({positives.NumElements(), 1 + negatives_}, &shape));
    tf::Tensor* targets = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &targets));
    DrawTargets(sampler, values, positives.NumElements(), 1 + negatives_,
                targets->flat<int64_t>().data(), DeviceParallel(context));
  }

 private:
  // Checks the alias table whole: a draw trusts it, and it may be any tensor.
  absl::Status ReadSampler(const tf::Tensor& aliases, const tf::Tensor& seed, NegativeSampler* sampler) const {
    if (aliases.dims() != 1 || (aliases.NumElements() != 0 && aliases.NumElements() != rows_)) {
      return ToTensorFlow(InvalidArgument("`aliases` must be a vector of `rows`, ", rows_, ", or empty. Received: shape ",
                                          aliases.shape().DebugString(), "."));
    }
    if (seed.dims() != 1 || seed.NumElements() != 2) {
      return ToTensorFlow(InvalidArgument("`seed` must be two numbers. Received: shape ", seed.shape().DebugString(), "."));
    }
    sampler->rows = rows_;
    sampler->aliases = aliases.NumElements() == 0 ? nullptr : aliases.flat<int64_t>().data();
    sampler->seed = MixedSeed(seed.flat<int64_t>()(0), seed.flat<int64_t>()(1));
    return ToTensorFlow(CheckAliases(*sampler));
  }

  int64_t rows_ = 0;
  int64_t negatives_ = 0;
};

REGISTER_KERNEL_BUILDER(Name("TfpsDrawTargets").Device(tf::DEVICE_CPU), DrawTargetsOp);

}  // namespace
}  // namespace tfps
