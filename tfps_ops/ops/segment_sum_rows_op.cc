// Registration, shape functions and documentation of TfpsSegmentSumRows and TfpsSegmentSumRepeats.
//
// The shape function checks each lookup's gradients against its inverse, if their shapes are known.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// gradients[i] is inverse[i]'s shape and dim; num_rows is a scalar; the sums are [num_rows, dim].
absl::Status SegmentSumRowsShape(InferenceContext* c) {
  int64_t dim = 0, n = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
  TF_RETURN_IF_ERROR(c->GetAttr("N", &n));
  // Merging is the check: it fails where known dimensions differ and learns those that one side does not know.
  for (int i = 0; i < n; ++i) {
    ShapeHandle expected, merged;
    // Example: an inverse of shape [32, 5] wants gradients of shape [32, 5, dim].
    TF_RETURN_IF_ERROR(c->Concatenate(c->input(n + i), c->Vector(dim), &expected));
    TF_RETURN_IF_ERROR(c->Merge(c->input(i), expected, &merged));
  }
  // Known where num_rows is a constant of the graph.
  DimensionHandle rows;
  TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(2 * n, &rows));
  c->set_output(0, c->Matrix(rows, dim));
  return absl::OkStatus();
}

// How many rows repeat is known when the inverse is.
absl::Status SegmentSumRepeatsShape(InferenceContext* c) {
  TF_RETURN_IF_ERROR(SegmentSumRowsShape(c));
  c->set_output(1, c->Vector(c->Dim(c->output(0), 0)));
  c->set_output(2, c->Matrix(InferenceContext::kUnknownDim, c->Value(c->Dim(c->output(0), 1))));
  return absl::OkStatus();
}

REGISTER_OP("TfpsSegmentSumRows")
    .Input("gradients: N * float")
    .Input("inverse: N * int32")
    .Input("num_rows: int64")
    .Output("sums: float")
    .Attr("N: int >= 1")
    .Attr("dim: int >= 1")
    .SetShapeFn(SegmentSumRowsShape)
    .Doc(R"doc(
Adds up, row by row, the gradients of all places that were given that row.

gradients: One tensor a lookup, the shape of its inverse and dim.
inverse: One tensor a lookup, any shape: for each place the row it was given, at least 0 and below num_rows.
num_rows: Rows of the result.
sums: [num_rows, dim]; a row that no place was given is 0.
)doc");

REGISTER_OP("TfpsSegmentSumRepeats")
    .Input("gradients: N * float")
    .Input("inverse: N * int32")
    .Input("num_rows: int64")
    .Output("sums: float")
    .Output("marks: int64")
    .Output("measures: float")
    .Attr("N: int >= 1")
    .Attr("dim: int >= 1")
    .Attr("measure: {'square', 'magnitude'}")
    .SetShapeFn(SegmentSumRepeatsShape)
    .Doc(R"doc(
Does what TfpsSegmentSumRows does, and adds up the measures of the gradients of each row that repeats: was given to several places.

gradients: As for TfpsSegmentSumRows.
inverse: As for TfpsSegmentSumRows.
num_rows: As for TfpsSegmentSumRows.
sums: As for TfpsSegmentSumRows.
marks: [num_rows]; 2^62 for a row that repeats and 0 for any other, to be added to its number in an update.
measures: [rows that repeat, dim], in the order of the rows.
measure: Of each element of a gradient: its square, or its magnitude.
)doc");

}  // namespace
}  // namespace tfps
