// Registration, shape function and documentation of TfpsApplyDense.
//
// The shape function checks handles and numbers; the shapes of variables are known where they are only.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// Handles are scalars, the hyperparameters a vector; whether a gradient has its variable's shape only the kernel can tell.
absl::Status ApplyDenseShape(InferenceContext* c) {
  int variables = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("K", &variables));
  ShapeHandle checked;
  for (int i = 0; i < variables; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &checked));
  // The hyperparameters, and last the decay.
  return c->WithRank(c->input(c->num_inputs() - 1), 1, &checked);
}

// Stateful, as every op that changes variables.
// The variables come first and slot after slot, so that an op for another rule differs in K alone.
REGISTER_OP("TfpsApplyDense")
    .Input("variables: K * resource")
    .Input("gradients: T * float")
    .Input("hyperparameters: float")
    .Attr("K: int >= 1")
    .Attr("T: int >= 1")
    .Attr("rule: string")
    .SetIsStateful()
    .SetShapeFn(ApplyDenseShape)
    .Doc(R"doc(
Updates whole variables and their slots in one pass over each: every element is read and written once.

Each variable is locked, with its slots, while it is updated. A gradient that does not fit leaves the variables before it
updated.

variables: Handles of float variables of any shape: those with a gradient, then the first slot of every one, then the
    second of every one; a slot has the shape of its variable.
gradients: Of the shape of their variables.
hyperparameters: Of the rule, as TfpsRowRules names them and then the decay.
rule: As in TfpsApplyRows.
)doc");

}  // namespace
}  // namespace tfps
