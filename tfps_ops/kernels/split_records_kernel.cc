// Kernel of TfpsSplitRecords: unpacks tensors and calls core/text/records.h.
//
// Threads: a Compute has no state but its tensors. Cost: a checksum and a copy of each record.
#include <string_view>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/text/records.h"
#include "tfps_ops/kernels/status_conversion.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

class SplitRecordsOp : public tf::OpKernel {
 public:
  explicit SplitRecordsOp(tf::OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& input = context->input(0);
    OP_REQUIRES(context, input.dims() == 0,
                ToTensorFlow(InvalidArgument("`bytes` must be a scalar. Received: shape ", input.shape().DebugString(), ".")));
    const tf::tstring& bytes = input.scalar<tf::tstring>()();
    const RecordSplit split = SplitRecords({bytes.data(), bytes.size()}, BestCpuTarget());
    tf::Tensor *valid = nullptr, *records = nullptr, *end = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &valid));
    OP_REQUIRES_OK(context, context->allocate_output(1, {static_cast<int64_t>(split.records.size())}, &records));
    OP_REQUIRES_OK(context, context->allocate_output(2, {}, &end));
    valid->scalar<bool>()() = split.is_valid;
    end->scalar<int64_t>()() = static_cast<int64_t>(split.end);
    auto to = records->vec<tf::tstring>();
    for (size_t i = 0; i < split.records.size(); ++i) to(i).assign(split.records[i].data(), split.records[i].size());
  }
};

REGISTER_KERNEL_BUILDER(Name("TfpsSplitRecords").Device(tf::DEVICE_CPU), SplitRecordsOp);

}  // namespace
}  // namespace tfps
