// Registration, shape function and documentation of TfpsApplyRows.
//
// The shape function knows little: how many rows are updated is in the message.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// Handles are scalars, the message a vector; whether its size fits only the kernel can tell.
absl::Status ApplyRowsShape(InferenceContext* c) {
  ShapeHandle checked;
  const int message = c->num_inputs() - 1;
  for (int i = 0; i < message; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &checked));
  return c->WithRank(c->input(message), 1, &checked);
}

// Stateful: it must neither be folded away nor merged with another call that has the same inputs.
// One float tensor carries the whole update, because each tensor that crosses to a server costs a message.
REGISTER_OP("TfpsApplyRows")
    .Input("variables: K * resource")
    .Input("message: float")
    .Attr("K: int >= 1")
    .Attr("tables: int >= 1")
    .Attr("dim: int >= 1")
    .Attr("rule: string")
    .Attr("any_key: bool = false")
    .SetIsStateful()
    .SetShapeFn(ApplyRowsShape)
    .Doc(R"doc(
Updates rows of several tables of one server at once, and the slots that go with them; other rows are left alone.

Rows and slots of bfloat16 are updated in floats and rounded at random, so that the mean is right.

Each table is locked, with its slots, while its own rows are updated: concurrent updates lose nothing. A message that is
wrong for one table leaves those before it updated.

variables: Handles of float or bfloat16 variables, [any, dim], or of columns of tables that grow: the tables, then the first slot of every table, then the second of every
    table; a slot has as many rows as its
    table, and as many columns or one, as its rule says.
message: The hyperparameters of the rule, as TfpsRowRules names them and then the decay; the bits of a request, two floats an element:
    how many rows of each table get a gradient, then those m rows, table after table, each at most once; [m, dim] gradients; and the summed
    measures of each row that has 2^62 added to its number, because its id repeats in the batch and the rule takes them.
tables: How many tables there are.
rule: The name of a rule; TfpsRowRules lists them.
any_key: Whether the rows have keys of all 64 bits, as those of tables that grow; none has measures then.
)doc");

}  // namespace
}  // namespace tfps
