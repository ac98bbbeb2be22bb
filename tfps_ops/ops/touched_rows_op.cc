// Registration, shape functions and documentation of TfpsWatchRows and TfpsTouchedRows.
//
// They are two ops and not one with a flag: who watches decides so once, who asks does so every few seconds.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// There is nothing to say of the output, as there is none; the handle must be one.
absl::Status WatchRowsShape(InferenceContext* c) {
  ShapeHandle checked;
  return c->WithRank(c->input(0), 0, &checked);
}

// How many rows were touched is known when the kernel has looked.
absl::Status TouchedRowsShape(InferenceContext* c) {
  ShapeHandle checked;
  for (int i = 0; i < 2; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &checked));
  c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
  c->set_output(1, c->Scalar());
  return absl::OkStatus();
}

// Both are stateful: one changes what the server records, the other reads what changes with every update.
REGISTER_OP("TfpsWatchRows")
    .Input("variable: resource")
    .SetIsStateful()
    .SetShapeFn(WatchRowsShape)
    .Doc(R"doc(
Begins to note which rows of a variable TfpsApplyRows updates, until the variable goes; a variable that is watched already
stays as it is.

variable: Handle of a float variable, [any, dim].
)doc");

REGISTER_OP("TfpsTouchedRows")
    .Input("variable: resource")
    .Input("cursor: int64")
    .Output("rows: int64")
    .Output("next_cursor: int64")
    .SetIsStateful()
    .SetShapeFn(TouchedRowsShape)
    .Doc(R"doc(
The rows that TfpsApplyRows has updated since a cursor. What other ops assign is not noted.

variable: Handle of a variable that TfpsWatchRows watches.
cursor: 0 for all rows touched since the watch began, or the next_cursor of an earlier call.
rows: Ascending, each once.
next_cursor: What to ask with next time. A row read after this call has at least the updates up to here.
)doc");

}  // namespace
}  // namespace tfps
