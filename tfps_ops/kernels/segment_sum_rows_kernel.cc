// Kernels of TfpsSegmentSumRows and TfpsSegmentSumRepeats: unpack tensors and call core/rows/segment_sum.h.
//
// Threads: a Compute has no state but its tensors. Errors: every position is checked before the first row is added, since a
// position outside would be a write outside. Cost: one pass over the positions for that, then see SegmentSum.
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/rows/row_request.h"
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

  void Compute(tf::OpKernelContext* context) override { Sum(context, nullptr); }

 protected:
  // Writes the sums, and also returns what they are of unless `summed` is null.
  void Sum(tf::OpKernelContext* context, std::vector<Segment>* summed) {
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
    if (summed != nullptr) *summed = std::move(segments);
  }

  int64_t dim_ = 0;

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
};

// The same, with the summed measures of each row that more than one gradient belongs to.
class SegmentSumRepeatsOp : public SegmentSumRowsOp {
 public:
  explicit SegmentSumRepeatsOp(tf::OpKernelConstruction* context) : SegmentSumRowsOp(context) {
    std::string measure;
    // The op's registration allows these two names only.
    OP_REQUIRES_OK(context, context->GetAttr("measure", &measure));
    measure_ = measure == "square" ? Measure::kSquare : Measure::kMagnitude;
  }

  void Compute(tf::OpKernelContext* context) override {
    std::vector<Segment> segments;
    Sum(context, &segments);
    if (!context->status().ok()) return;
    const int64_t rows = context->input(context->num_inputs() - 1).scalar<int64_t>()();
    // Few rows repeat, so only they have measures, and `marks` says for each row whether it is one of them.
    const Repeats repeats = FindRepeats(segments, rows);
    tf::Tensor *marks = nullptr, *measures = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(1, tf::TensorShape({rows}), &marks));
    OP_REQUIRES_OK(context, context->allocate_output(2, tf::TensorShape({repeats.count, dim_}), &measures));
    for (int64_t r = 0; r < rows; ++r) marks->flat<int64_t>()(r) = repeats.index_of[r] < 0 ? 0 : kRepeats;
    SegmentSumMeasures(segments, repeats, measure_, dim_, measures->flat<float>().data(), DeviceParallel(context));
  }

 private:
  Measure measure_ = Measure::kSquare;
};

REGISTER_KERNEL_BUILDER(Name("TfpsSegmentSumRows").Device(tf::DEVICE_CPU), SegmentSumRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsSegmentSumRepeats").Device(tf::DEVICE_CPU), SegmentSumRepeatsOp);

}  // namespace
}  // namespace tfps
