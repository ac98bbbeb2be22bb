// Registration, shape functions and documentation of TfpsTrainPairs and TfpsTrainGroups.
//
// The shape functions check what they can: all matrices alike, and a row of targets for each pair or group.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// Deltas have the shape of the rows, the loss is one number.
absl::Status RowsShape(InferenceContext* c) {
  std::vector<ShapeHandle> rows;
  ShapeHandle matrix = c->Matrix(InferenceContext::kUnknownDim, InferenceContext::kUnknownDim);
  ShapeHandle hyper;
  // The rows, and then the slots of the rule.
  TF_RETURN_IF_ERROR(c->input("rows", &rows));
  // All matrices have one shape, and what one of them knows of it holds for all.
  for (const ShapeHandle& one : rows) TF_RETURN_IF_ERROR(c->Merge(matrix, one, &matrix));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 1), 1, &hyper));
  TF_RETURN_IF_ERROR(c->set_output("deltas", std::vector<ShapeHandle>(rows.size(), matrix)));
  return c->set_output("loss", {c->Scalar()});
}

// A row of targets for each element of a vector, which is the input before them.
absl::Status TargetsShape(InferenceContext* c) {
  ShapeHandle vector, targets;
  DimensionHandle count;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 3), 1, &vector));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 2), 2, &targets));
  return c->Merge(c->Dim(vector, 0), c->Dim(targets, 0), &count);
}

absl::Status TrainPairsShape(InferenceContext* c) {
  TF_RETURN_IF_ERROR(TargetsShape(c));
  return RowsShape(c);
}

// Sizes take the place of a pair's center; the centers come before them.
absl::Status TrainGroupsShape(InferenceContext* c) {
  ShapeHandle centers;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 4), 1, &centers));
  TF_RETURN_IF_ERROR(TargetsShape(c));
  return RowsShape(c);
}

// Not stateful: it takes rows and returns what training adds to them; variables are changed by the ops around it.
// The loss is a double: it is a sum over all targets of a window, millions of them.
REGISTER_OP("TfpsTrainPairs")
    .Input("rows: K * float")
    .Input("centers: int32")
    .Input("targets: int32")
    .Input("hyperparameters: float")
    .Output("deltas: K * float")
    .Output("loss: double")
    .Attr("K: int >= 1")
    .Attr("rule: string")
    .SetShapeFn(TrainPairsShape)
    .Doc(R"doc(
Trains pairs of rows with a logistic loss, one pair after the other, each against rows of its own that it must not score high.

rows: The rows and as many slots as the rule has, [M, dim] each.
centers: [n], the row of each pair that is scored with each of its targets.
targets: [n, width], rows; the first of a pair is the positive one, the others are negative.
hyperparameters: Those of the rule and last the decay, as for TfpsApplyRows.
deltas: What training adds to each of `rows`.
loss: The sum over all targets, each in turn before its update.
rule: "sgd" or "adagrad"; see core/pair_trainer.h for the order of the updates.
)doc");

REGISTER_OP("TfpsTrainGroups")
    .Input("rows: K * float")
    .Input("centers: int32")
    .Input("sizes: int32")
    .Input("targets: int32")
    .Input("hyperparameters: float")
    .Output("deltas: K * float")
    .Output("loss: double")
    .Attr("K: int >= 1")
    .Attr("rule: string")
    .SetShapeFn(TrainGroupsShape)
    .Doc(R"doc(
Trains groups of rows with a logistic loss, one group after the other. The centers of a group share its targets, and all its
scores are of the rows before the group.

rows: The rows and as many slots as the rule has, [M, dim] each.
centers: [p], the rows of the centers of all groups, one group after the other.
sizes: [n], the number of centers of each group.
targets: [n, width], rows; the first of a group is the positive one, the others are negative.
hyperparameters: Those of the rule and last the decay, as for TfpsApplyRows.
deltas: What training adds to each of `rows`.
loss: The sum over all targets of all centers, each before the updates of its group.
rule: "sgd" or "adagrad"; see core/pair_trainer.h for the order of the updates.
)doc");

}  // namespace
}  // namespace tfps
