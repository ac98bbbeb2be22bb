// Registration, shape function and documentation of TfpsGatherRows.
//
// The shape function says how wide the rows are, which layers need to know before they are built.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// request is a vector of a count a table and the rows; the result is [its rows, dim].
absl::Status GatherRowsShape(InferenceContext* c) {
  int64_t dim = 0, n = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
  TF_RETURN_IF_ERROR(c->GetAttr("N", &n));
  // A count for each table, then the rows: the request is n longer than the answer.
  ShapeHandle handle, request;
  for (int i = 0; i < n; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &handle));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(n), 1, &request));
  DimensionHandle rows;
  // A request that is too short to hold its counts fails here where its length is known, and in the kernel where it is not.
  TF_RETURN_IF_ERROR(c->Subtract(c->Dim(request, 0), n, &rows));
  c->set_output(0, c->Matrix(rows, dim));
  return absl::OkStatus();
}

// Stateful: two gathers with the same inputs read different rows when an update comes between them.
// `dim` is an attribute, so that the shape of the result is known where the graph is built.
REGISTER_OP("TfpsGatherRows")
    .Input("tables: N * resource")
    .Input("request: int64")
    .Output("rows: T")
    .Attr("N: int >= 1")
    .Attr("dim: int >= 1")
    .Attr("training: bool = false")
    .Attr("T: {float, bfloat16} = DT_FLOAT")
    .SetIsStateful()
    .SetShapeFn(GatherRowsShape)
    .Doc(R"doc(
Copies rows out of several tables of one server at once.

Each table is locked against updates while its own rows are copied: no row is seen half updated.

tables: Handles of float or bfloat16 variables, each [any, dim], or of tables that grow.
request: [N + m]: how many rows of each table are wanted, then those m rows, table after table.
training: Whether a step will update these rows. Tables that evict rows leave them alone then.
T: The type of the answer. A bfloat16 of a float row is the nearest.
rows: [m, dim], in the order of the request.
)doc");

}  // namespace
}  // namespace tfps
