// Registration, shape functions and documentation of TfpsCombineRows and of its gradients.
//
// The gradients are ops of their own, called by a tf.custom_gradient of tfps/ops/combine_rows.py: an op that has its gradient
// registered in Python would need that registration in every process that loads a graph.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// The inputs `names` are vectors of one length.
absl::Status SameLength(InferenceContext* c, const std::vector<std::string>& names, ShapeHandle* length) {
  // A vector to begin with, so that an input which is none fails too.
  *length = c->Vector(InferenceContext::kUnknownDim);
  for (const std::string& name : names) {
    // An input list: `weights` may be of none or of one tensor.
    std::vector<ShapeHandle> inputs;
    TF_RETURN_IF_ERROR(c->input(name, &inputs));
    for (const ShapeHandle& input : inputs) TF_RETURN_IF_ERROR(c->Merge(*length, input, length));
  }
  return absl::OkStatus();
}

// A matrix with the columns of input `matrix` and as many rows as the scalar input `rows` says.
absl::Status MatrixOf(InferenceContext* c, int matrix, int rows) {
  ShapeHandle given;
  DimensionHandle count;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(matrix), 2, &given));
  // Known where the number is a constant of the graph, as it is for a batch of fixed size.
  TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(rows, &count));
  c->set_output(0, c->Matrix(count, c->Dim(given, 1)));
  return absl::OkStatus();
}

// Of TfpsCombineRows and TfpsCombineRowsGrad alike: input 0 has the columns, input 3 the number of rows.
absl::Status CombineShape(InferenceContext* c) {
  ShapeHandle length;
  // An element has a place, a segment and perhaps a weight.
  TF_RETURN_IF_ERROR(SameLength(c, {"places", "segments", "weights"}, &length));
  return MatrixOf(c, 0, 3);
}

// A number for each element.
absl::Status CombineWeightsGradShape(InferenceContext* c) {
  ShapeHandle gradients, rows, length;
  DimensionHandle dim;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &gradients));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &rows));
  // Gradients are of what was combined, which has the columns of the rows.
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(gradients, 1), c->Dim(rows, 1), &dim));
  TF_RETURN_IF_ERROR(SameLength(c, {"places", "segments", "weights"}, &length));
  c->set_output(0, length);
  return absl::OkStatus();
}

// `weights` is a list of none or one tensor: TensorFlow has no optional inputs.
REGISTER_OP("TfpsCombineRows")
    .Input("rows: float")
    .Input("places: int32")
    .Input("segments: int64")
    .Input("num_segments: int64")
    .Input("weights: W * float")
    .Output("combined: float")
    .Attr("W: int >= 0")
    .Attr("combiner: {'sum', 'mean', 'sqrtn'}")
    .SetShapeFn(CombineShape)
    .Doc(R"doc(
Combines the rows of each bag into one; no row is copied out element by element.

rows: [M, dim].
places: [n], the row of each element, at least 0 and below M.
segments: [n], the bag of each element, ascending, at least 0 and below num_segments.
num_segments: Scalar, how many bags there are.
weights: [n], the weight of each element; without it all are 1. At most one.
combined: [num_segments, dim]: the weighted sum of the bag's rows; for "mean" over the sum of its weights, for "sqrtn"
  over the root of the sum of their squares. 0 where there is no element or that comes to 0.
)doc");

// An op of its own and not a mode of the other: it has other inputs, and gradients are taken of neither.
REGISTER_OP("TfpsCombineRowsGrad")
    .Input("gradients: float")
    .Input("places: int32")
    .Input("segments: int64")
    .Input("num_rows: int64")
    .Input("weights: W * float")
    .Output("sums: float")
    .Attr("W: int >= 0")
    .Attr("combiner: {'sum', 'mean', 'sqrtn'}")
    .SetShapeFn(CombineShape)
    .Doc(R"doc(
The gradient of TfpsCombineRows for its rows, summed over all elements that have the row.

gradients: [bags, dim], of what was combined.
places: As given to TfpsCombineRows, below num_rows.
segments: As given to TfpsCombineRows, below the number of bags.
num_rows: Scalar, M.
weights: As given to TfpsCombineRows.
sums: [num_rows, dim]; 0 for a row that no element has.
)doc");

// Weights are an input here and no list: without them there is nothing to take the gradient for.
REGISTER_OP("TfpsCombineWeightsGrad")
    .Input("gradients: float")
    .Input("rows: float")
    .Input("places: int32")
    .Input("segments: int64")
    .Input("weights: float")
    .Output("weights_grad: float")
    .Attr("combiner: {'sum', 'mean', 'sqrtn'}")
    .SetShapeFn(CombineWeightsGradShape)
    .Doc(R"doc(
The gradient of TfpsCombineRows for its weights.

gradients: [bags, dim], of what was combined.
rows: As given to TfpsCombineRows.
places: As given to TfpsCombineRows.
segments: As given to TfpsCombineRows, below the number of bags.
weights: As given to TfpsCombineRows.
weights_grad: [n]; 0 in a bag whose weights come to 0 and are divided by.
)doc");

}  // namespace
}  // namespace tfps
