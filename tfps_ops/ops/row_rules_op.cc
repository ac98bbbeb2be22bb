// Registration, shape function and documentation of TfpsRowRules.
//
// It has no inputs, so TensorFlow may compute it once, when the graph is made.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::InferenceContext;

// How many rules there are is for the library that runs to say.
absl::Status RowRulesShape(InferenceContext* c) {
  for (int i = 0; i < c->num_outputs(); ++i) c->set_output(i, c->Vector(InferenceContext::kUnknownDim));
  return absl::OkStatus();
}

REGISTER_OP("TfpsRowRules")
    .Output("names: string")
    .Output("hyperparameters: string")
    .Output("slots: string")
    .Output("row_slots: string")
    .SetShapeFn(RowRulesShape)
    .Doc(R"doc(
The rules of this library, by which TfpsApplyRows updates rows. Lists in a text are separated by ", ".

names: [rules], of the rules.
hyperparameters: [rules], the numbers that each takes with every update, in their order; the decay, which every rule takes
    last, is not named.
slots: [rules], the slots that have a float for each float of the table, in their order.
row_slots: [rules], the slots that have one float for each row; they come after the others.
)doc");

}  // namespace
}  // namespace tfps
