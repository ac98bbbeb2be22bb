// Registration, shape functions and documentation of the ops of the rows that a worker keeps.
//
// All of them run on the worker, and all are stateful: they read or change what is behind the handle.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

constexpr auto kUnknown = InferenceContext::kUnknownDim;

// A handle and two scalars, and no output.
absl::Status OpenShape(InferenceContext* c) {
  ShapeHandle checked;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &checked));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &checked));
  return c->WithRank(c->input(2), 0, &checked);
}

absl::Status FindShape(InferenceContext* c) {
  int64_t dim = 0, servers = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
  TF_RETURN_IF_ERROR(c->GetAttr("S", &servers));
  // Inputs are the handle, the ids and a request for each server.
  ShapeHandle ids, checked;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &checked));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &ids));
  for (int s = 0; s < servers; ++s) {
    TF_RETURN_IF_ERROR(c->WithRank(c->input(2 + s), 1, &checked));
    c->set_output(s, c->Vector(kUnknown));
  }
  c->set_output(servers, c->Matrix(c->Dim(ids, 0), dim));
  c->set_output(servers + 1, c->Vector(kUnknown));
  c->set_output(servers + 2, c->Vector(2));
  return absl::OkStatus();
}

absl::Status StoreShape(InferenceContext* c) {
  // Inputs are the handle, the ids, a request for each server, then rows, missing, moment and fetched.
  const int after = c->num_inputs() - 4;
  ShapeHandle ids, rows, missing, moment, fetched;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &ids));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(after), 2, &rows));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(after + 1), 1, &missing));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(after + 2), 1, &moment));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(after + 3), 2, &fetched));
  DimensionHandle count, width;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(ids, 0), c->Dim(rows, 0), &count));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(rows, 1), c->Dim(fetched, 1), &width));
  c->set_output(0, c->Matrix(count, width));
  return c->Merge(c->Dim(missing, 0), c->Dim(fetched, 0), &count);
}

absl::Status CountsShape(InferenceContext* c) {
  c->set_output(0, c->Vector(3));
  return absl::OkStatus();
}

REGISTER_OP("TfpsRowCache")
    .Output("cache: resource")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .SetIsStateful()
    .SetShapeFn(::tensorflow::shape_inference::ScalarShape)
    .Doc("The handle of the rows that a worker keeps under a name. TfpsOpenRowCache makes what it refers to.");

REGISTER_OP("TfpsOpenRowCache")
    .Input("cache: resource")
    .Input("version: int64")
    .Input("max_missed: int64")
    .Attr("rows: int >= 1")
    .Attr("max_staleness: int >= 0")
    .SetIsStateful()
    .SetShapeFn(OpenShape)
    .Doc(R"doc(
Begins a closure: makes the cache if the worker has none of this name, and forgets the rows of other versions.

version: A number that changes whenever rows were changed in another way than by updates.
rows: The rows of each width that the cache keeps.
max_staleness: The steps for which a row is used after the step that has fetched it.
max_missed: How often it is used in these steps, each of which updates it; 0 for never.
)doc");

REGISTER_OP("TfpsBeginCacheStep")
    .Input("cache: resource")
    .SetIsStateful()
    .SetShapeFn(::tensorflow::shape_inference::NoOutputs)
    .Doc("Begins a step: each row that is kept is one step older.");

REGISTER_OP("TfpsFindCachedRows")
    .Input("cache: resource")
    .Input("ids: int64")
    .Input("requests: S * int64")
    .Output("remaining: S * int64")
    .Output("rows: float")
    .Output("missing: int32")
    .Output("moment: int64")
    .Attr("S: int >= 1")
    .Attr("dim: int >= 1")
    .Attr("pieces: list(int)")
    .Attr("tables: list(int)")
    .SetIsStateful()
    .SetShapeFn(FindShape)
    .Doc(R"doc(
Divides the rows that a step asks for into those that the worker keeps and those that it has to fetch.

ids: [M]: the global id of each row of the answer, as TfpsRouteUnique gives it.
requests: What each server would be asked for, as TfpsRouteUnique gives it.
remaining: What each server is to be asked for: the same requests without the rows that are kept.
rows: [M, dim]: the rows that are kept, each at its place of the answer; other rows are zeros.
missing: [m], ascending: the places of the others, in the order in which the servers will send them.
moment: The version and the step of the cache, for TfpsStoreCachedRows.
pieces: The number of pieces of each server.
tables: The number of the table of each piece, server after server.
)doc");

REGISTER_OP("TfpsStoreCachedRows")
    .Input("cache: resource")
    .Input("ids: int64")
    .Input("requests: S * int64")
    .Input("rows: float")
    .Input("missing: int32")
    .Input("moment: int64")
    .Input("fetched: float")
    .Output("answer: float")
    .Attr("S: int >= 1")
    .Attr("pieces: list(int)")
    .Attr("tables: list(int)")
    .SetIsStateful()
    .SetShapeFn(StoreShape)
    .Doc(R"doc(
Puts the rows that were fetched to their places of the answer, and keeps those that are asked for most.

The inputs before `fetched`, and the attributes, are inputs, outputs and attributes of TfpsFindCachedRows.

fetched: [m, dim]: the missing rows.
answer: [M, dim]: all rows.
)doc");

REGISTER_OP("TfpsTakeCacheCounts")
    .Input("cache: resource")
    .Output("counts: int64")
    .SetIsStateful()
    .SetShapeFn(CountsShape)
    .Doc("Since the last call: the rows that steps asked for, those of them that were kept, and the bytes that did not cross.");

}  // namespace
}  // namespace tfps
