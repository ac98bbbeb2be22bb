// Registration, shape function and documentation of TfpsScanRows.
//
// One op reads a table and its slots, because only so are both of one moment.
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// How many rows a chunk has is known when it is read, and how wide a slot is, when its variable is.
absl::Status ScanRowsShape(InferenceContext* c) {
  int variables = 0;
  int64_t dim = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("K", &variables));
  TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
  ShapeHandle checked;
  for (int i = 0; i <= variables; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &checked));
  // One dimension for all outputs: a chunk has as many keys as rows.
  const DimensionHandle rows = c->UnknownDim();
  c->set_output(0, c->Vector(rows));
  c->set_output(1, c->Matrix(rows, c->MakeDim(dim)));
  for (int i = 1; i < variables; ++i) c->set_output(1 + i, c->Matrix(rows, c->UnknownDim()));
  c->set_output(1 + variables, c->Scalar());
  return absl::OkStatus();
}

// Stateful: rows change between two scans. max_rows is an attribute, because it bounds the memory that a server gives for a
// scan and so belongs to the graph and not to the data.
REGISTER_OP("TfpsScanRows")
    .Input("variables: K * resource")
    .Input("cursor: int64")
    .Output("keys: int64")
    .Output("rows: K * float")
    .Output("next_cursor: int64")
    .Attr("K: int >= 1")
    .Attr("dim: int >= 1")
    .Attr("max_rows: int >= 1")
    .SetIsStateful()
    .SetShapeFn(ScanRowsShape)
    .Doc(R"doc(
Copies the next rows of a table out, with their slots, all at one moment.

variables: Handles of float or bfloat16 variables: the table, [any, dim], and its slots, [any, any], with the rows of the table.
cursor: 0 for the first chunk, or the next_cursor of the chunk before.
keys: [n], the number of each row, n at most max_rows.
rows: As floats: the rows, [n, dim], and those of each slot, [n, its width].
next_cursor: Where the next chunk begins; -1 after the last one.
)doc");

}  // namespace
}  // namespace tfps
