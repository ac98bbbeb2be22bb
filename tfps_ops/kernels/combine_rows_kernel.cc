// Kernels of TfpsCombineRows and of its gradients: unpack tensors and call core/rows/segment_combine.h.
//
// All that a kernel knows is its combiner, so any number of steps share one. Every place and segment is checked before a row
// is read: they are tensors of the user's graph, and may hold anything.
#include <string>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/rows/segment_combine.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/status_conversion.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// What the three ops have in common: they read bags of elements and write a matrix.
// Inputs are checked one by one; what a check needs of an earlier one is known by then.
class CombineOp : public tf::OpKernel {
 public:
  explicit CombineOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::string combiner;
    // The op's registration allows these three names only.
    OP_REQUIRES_OK(context, context->GetAttr("combiner", &combiner));
    bags_.combiner = combiner == "sum" ? Combiner::kSum : combiner == "mean" ? Combiner::kMean : Combiner::kSqrtn;
  }

 protected:
  // A matrix of `dim` columns, or of any where `dim` is -1.
  static absl::Status ReadMatrix(tf::OpKernelContext* context, const char* name, int64_t dim, const tf::Tensor** matrix) {
    TF_RETURN_IF_ERROR(context->input(name, matrix));
    if ((*matrix)->dims() != 2 || (dim >= 0 && (*matrix)->dim_size(1) != dim)) {
      return ToTensorFlow(InvalidArgument("`", name, "` must be a matrix", dim < 0 ? "" : " with the columns of the rows, ",
                                          dim < 0 ? "" : std::to_string(dim), ". Received: shape ",
                                          (*matrix)->shape().DebugString(), "."));
    }
    return absl::OkStatus();
  }

  // A number of rows or of bags, at least 0.
  static absl::Status ReadCount(tf::OpKernelContext* context, const char* name, int64_t* count) {
    const tf::Tensor* tensor;
    TF_RETURN_IF_ERROR(context->input(name, &tensor));
    TF_RETURN_IF_ERROR(CheckCount(name, *tensor));
    *count = tensor->scalar<int64_t>()();
    return absl::OkStatus();
  }

  // The elements of `count` bags, which ask for rows [rows, dim].
  absl::Status ReadBags(tf::OpKernelContext* context, int64_t rows, int64_t count, int64_t dim, Bags* bags) const {
    const tf::Tensor *places, *segments;
    tf::OpInputList weights;
    TF_RETURN_IF_ERROR(context->input("places", &places));
    TF_RETURN_IF_ERROR(context->input("segments", &segments));
    TF_RETURN_IF_ERROR(context->input_list("weights", &weights));
    // The shape functions check the same, where the shapes are known before the step.
    if (places->dims() != 1 || segments->shape() != places->shape()) {
      return ToTensorFlow(InvalidArgument("`places` and `segments` must be vectors of one length. Received: shapes ",
                                          places->shape().DebugString(), " and ", segments->shape().DebugString(), "."));
    }
    if (weights.size() > 1 || (weights.size() == 1 && weights[0].shape() != places->shape())) {
      return ToTensorFlow(InvalidArgument("`weights` must be none or one vector as long as `places`, ",
                                          places->NumElements(), ". Received: ", weights.size(), " of shape ",
                                          weights[0].shape().DebugString(), "."));
    }
    // Pointers into the inputs, which live as long as this Compute.
    *bags = bags_;
    bags->places = places->flat<int32_t>().data();
    bags->segments = segments->flat<int64_t>().data();
    // Null is the core's way to say that all weights are 1.
    bags->weights = weights.size() == 0 ? nullptr : weights[0].flat<float>().data();
    bags->elements = places->NumElements();
    bags->rows = rows;
    bags->count = count;
    bags->dim = dim;
    return ToTensorFlow(CheckBags(*bags));
  }

  // The sizes come from the caller, so their product may overflow: that is an error here and no crash.
  static absl::Status AllocateMatrix(tf::OpKernelContext* context, int64_t rows, int64_t dim, tf::Tensor** matrix) {
    tf::TensorShape shape;
    TF_RETURN_IF_ERROR(tf::TensorShape::BuildTensorShape({rows, dim}, &shape));
    return context->allocate_output(0, shape, matrix);
  }

 private:
  // Copied by each Compute, which fills in the rest.
  Bags bags_;  // with the combiner and nothing else
};

// Forward: the rows of each bag combined into one.
class CombineRowsOp : public CombineOp {
 public:
  using CombineOp::CombineOp;

  void Compute(tf::OpKernelContext* context) override {
    // Inputs are the rows, places, segments, the number of bags, and weights or none.
    const tf::Tensor* rows;
    tf::Tensor* combined;
    int64_t count = 0;
    Bags bags;
    OP_REQUIRES_OK(context, ReadMatrix(context, "rows", -1, &rows));
    OP_REQUIRES_OK(context, ReadCount(context, "num_segments", &count));
    OP_REQUIRES_OK(context, ReadBags(context, rows->dim_size(0), count, rows->dim_size(1), &bags));
    OP_REQUIRES_OK(context, AllocateMatrix(context, count, bags.dim, &combined));
    // Nothing to write, and perhaps 2^40 bags to go through.
    if (combined->NumElements() == 0) return;  // rows of no elements take no memory, whatever the number of bags
    // No row is copied out element by element, as tf.gather and a segment sum would.
    CombineRows(bags, rows->flat<float>().data(), combined->flat<float>().data(), DeviceParallel(context));
  }
};

// Backward, for the rows: the gradient of each bag spread over the rows of its elements.
class CombineRowsGradOp : public CombineOp {
 public:
  using CombineOp::CombineOp;

  void Compute(tf::OpKernelContext* context) override {
    // Inputs are the gradients of the bags, places, segments, the number of rows, and weights or none.
    const tf::Tensor* gradients;
    tf::Tensor* sums;
    int64_t rows = 0;
    Bags bags;
    OP_REQUIRES_OK(context, ReadMatrix(context, "gradients", -1, &gradients));
    OP_REQUIRES_OK(context, ReadCount(context, "num_rows", &rows));
    OP_REQUIRES_OK(context, ReadBags(context, rows, gradients->dim_size(0), gradients->dim_size(1), &bags));
    // A row that no element has gets a gradient of 0, so the result has all rows.
    OP_REQUIRES_OK(context, AllocateMatrix(context, rows, bags.dim, &sums));
    if (sums->NumElements() == 0) return;
    CombineRowsGradient(bags, gradients->flat<float>().data(), sums->flat<float>().data(), DeviceParallel(context));
  }
};

// Backward, for the weights: one number an element.
class CombineWeightsGradOp : public CombineOp {
 public:
  using CombineOp::CombineOp;

  void Compute(tf::OpKernelContext* context) override {
    // Both the rows and the gradients are needed: a weight's gradient is the product of its row and its bag's gradient.
    const tf::Tensor *rows, *gradients;
    tf::Tensor* out;
    Bags bags;
    OP_REQUIRES_OK(context, ReadMatrix(context, "rows", -1, &rows));
    OP_REQUIRES_OK(context, ReadMatrix(context, "gradients", rows->dim_size(1), &gradients));
    OP_REQUIRES_OK(context, ReadBags(context, rows->dim_size(0), gradients->dim_size(0), rows->dim_size(1), &bags));
    OP_REQUIRES_OK(context, context->allocate_output(0, {bags.elements}, &out));
    if (bags.dim == 0) {  // as above: gradients of no elements may be any number of bags
      out->flat<float>().setZero();
      return;
    }
    CombineWeightsGradient(bags, gradients->flat<float>().data(), rows->flat<float>().data(), out->flat<float>().data(),
                           DeviceParallel(context));
  }
};

REGISTER_KERNEL_BUILDER(Name("TfpsCombineRows").Device(tf::DEVICE_CPU), CombineRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsCombineRowsGrad").Device(tf::DEVICE_CPU), CombineRowsGradOp);
REGISTER_KERNEL_BUILDER(Name("TfpsCombineWeightsGrad").Device(tf::DEVICE_CPU), CombineWeightsGradOp);

}  // namespace
}  // namespace tfps
