// Registration, shape function and documentation of TfpsReluBiasGrad.
//
// The shape function checks that both inputs have one shape, if their shapes are known.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// The gradient has the shape of both inputs, and the bias that of their last dimension.
absl::Status ReluBiasGradShape(InferenceContext* c) {
  ShapeHandle shape;
  TF_RETURN_IF_ERROR(c->Merge(c->input(0), c->input(1), &shape));
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(shape, 1, &shape));
  c->set_output(0, shape);
  c->set_output(1, c->RankKnown(shape) ? c->Vector(c->Dim(shape, -1)) : c->Vector(InferenceContext::kUnknownDim));
  return absl::OkStatus();
}

REGISTER_OP("TfpsReluBiasGrad")
    .Input("upstream: bfloat16")
    .Input("results: bfloat16")
    .Output("gradient: bfloat16")
    .Output("bias_gradient: bfloat16")
    .SetShapeFn(ReluBiasGradShape)
    .Doc(R"doc(
Computes the gradients of relu(x + bias) in one pass. Sums over rows are float32, and are rounded once.

upstream: The gradient of the result, [..., columns].
results: relu(x + bias), of the same shape.
gradient: Of x: `upstream` where the result is above 0, else `upstream` times 0.
bias_gradient: [columns], the sums of `gradient` over all other dimensions.
)doc");

}  // namespace
}  // namespace tfps
