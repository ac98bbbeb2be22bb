// Registration, shape functions and documentation of the ops that turn rows and requests into fewer bytes, and back.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// A vector of floats whose length the kernel finds, from an input of rank `kRank`, the last one.
template <int kRank>
absl::Status CodedShape(InferenceContext* c) {
  ShapeHandle input;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 1), kRank, &input));
  c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
  return absl::OkStatus();
}

// coded and the number of rows; the result is [rows, dim].
absl::Status DecodeRowsShape(InferenceContext* c) {
  ShapeHandle coded, scalar;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &coded));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &scalar));
  int64_t dim = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
  DimensionHandle rows;
  TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(1, &rows));
  c->set_output(0, c->Matrix(rows, dim));
  return absl::OkStatus();
}

// Two handles, a request and the rows.
absl::Status EncodeWithErrorsShape(InferenceContext* c) {
  ShapeHandle input;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &input));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &input));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &input));
  return CodedShape<2>(c);
}

REGISTER_OP("TfpsEncodeRows")
    .Input("rows: float")
    .Output("coded: float")
    .Attr("codec: {'bfloat16', 'int8'}")
    .Attr("stochastic: bool")
    .SetShapeFn(CodedShape<2>)
    .Doc(R"doc(
Writes rows in fewer bytes, for a message; core/wire/row_codec.h has the layout.

rows: [count, dim].
coded: As many floats as the bytes take; they are no numbers.
codec: 2 bytes an element; or 1, and 2 for the scale of a row.
stochastic: Whether elements are rounded up or down by chance, so that the mean of many is exact; to the nearest otherwise.
)doc");

REGISTER_OP("TfpsDecodeRows")
    .Input("coded: float")
    .Input("count: int64")
    .Output("rows: float")
    .Attr("dim: int >= 1")
    .Attr("codec: {'bfloat16', 'int8'}")
    .SetShapeFn(DecodeRowsShape)
    .Doc(R"doc(
Reads what TfpsEncodeRows wrote.

coded: A vector of that op.
count: How many rows it has.
rows: [count, dim].
)doc");

REGISTER_OP("TfpsEncodeRequest")
    .Input("request: int64")
    .Output("coded: float")
    .Attr("pieces: int >= 1")
    .Attr("marked: bool")
    .SetShapeFn(CodedShape<1>)
    .Doc(R"doc(
Writes a request in fewer bytes; core/wire/request_codec.h has the layout.

request: [pieces + rows], a request of TfpsRouteUnique.
coded: As many floats as the bytes take; they are no numbers.
marked: Whether 2^62 may have been added to row numbers, to mark them.
)doc");

REGISTER_OP("TfpsDecodeRequest")
    .Input("coded: float")
    .Output("request: int64")
    .Attr("pieces: int >= 1")
    .Attr("marked: bool")
    .SetShapeFn(CodedShape<1>)
    .Doc(R"doc(
Reads what TfpsEncodeRequest wrote.
)doc");

// Stateful: it changes the errors.
REGISTER_OP("TfpsEncodeWithErrors")
    .Input("keys: resource")
    .Input("errors: resource")
    .Input("request: int64")
    .Input("rows: float")
    .Output("coded: float")
    .Attr("codec: {'bfloat16', 'int8'}")
    .Attr("pieces: int >= 1")
    .Attr("marked: bool")
    .Attr("places_log2: int >= 1")
    .SetIsStateful()
    .SetShapeFn(EncodeWithErrorsShape)
    .Doc(R"doc(
Does what TfpsEncodeRows does, stochastically, for rows plus what rounding took from them in earlier calls.

keys: Handle of an int64 variable, [2^places_log2], which the first call makes: which row has a place.
errors: Handle of a float variable, [2^places_log2, dim], which the first call makes.
request: [pieces + count], whose the rows are; each at most once.
rows: [count, dim], in the order of the request.
coded: As of TfpsEncodeRows.
)doc");

}  // namespace
}  // namespace tfps
