// Registration, shape function and documentation of the TfpsApplyRows ops; formulas are in core/row_rules.h.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// Handles and step inputs are scalars; gradients is [m, dim], request [N + m].
absl::Status ApplyRowsShape(InferenceContext* c) {
  int64_t dim = 0, n = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
  TF_RETURN_IF_ERROR(c->GetAttr("N", &n));
  ShapeHandle scalar, gradients, request;
  const int last = c->num_inputs() - 1;
  for (int i = 0; i < last - 1; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(last), 1, &request));
  DimensionHandle rows;
  TF_RETURN_IF_ERROR(c->Subtract(c->Dim(request, 0), n, &rows));
  return c->Merge(c->input(last - 1), c->Matrix(rows, dim), &gradients);
}

constexpr char kDoc[] = R"doc(
Updates rows of several tables of one server at once, and the slots that go with them; other rows are left alone.

Each table is locked, with its slots, while its own rows are updated: concurrent updates lose nothing. A request that is
wrong for one table leaves those before it updated.

tables: Handles of float variables, each [any, dim].
slots: Handles of variables of their tables' shapes: the first slot of every table, then the second of every table.
learning_rate: Scalar.
step: Scalar, the number of this step, counted from 1.
gradients: [m, dim], in the order of the request.
request: [N + m]: how many rows of each table get a gradient, then those m rows, table after table; within a table each
    row at most once.
weight_decay: Before the update, w -= w * weight_decay * learning_rate.
)doc";

constexpr char kDocWithoutStep[] = R"doc(
As TfpsApplyRowsAdam, but for `step`, which this rule does not need.
)doc";

REGISTER_OP("TfpsApplyRowsSgd")
    .Input("tables: N * resource")
    .Input("learning_rate: float")
    .Input("gradients: float")
    .Input("request: int64")
    .Attr("N: int >= 1")
    .Attr("dim: int >= 1")
    .Attr("weight_decay: float = 0")
    .SetIsStateful()
    .SetShapeFn(ApplyRowsShape)
    .Doc(kDocWithoutStep);

#define TFPS_REGISTER_WITH_SLOTS(name)  \
  REGISTER_OP(name)                     \
      .Input("tables: N * resource")    \
      .Input("slots: K * resource")     \
      .Input("learning_rate: float")    \
      .Input("gradients: float")        \
      .Input("request: int64")          \
      .Attr("N: int >= 1")              \
      .Attr("K: int >= 1")              \
      .Attr("dim: int >= 1")            \
      .Attr("weight_decay: float = 0")  \
      .SetIsStateful()                  \
      .SetShapeFn(ApplyRowsShape)       \
      .Doc(kDocWithoutStep)

TFPS_REGISTER_WITH_SLOTS("TfpsApplyRowsMomentum").Attr("momentum: float").Attr("nesterov: bool = false");

TFPS_REGISTER_WITH_SLOTS("TfpsApplyRowsAdagrad").Attr("epsilon: float");

TFPS_REGISTER_WITH_SLOTS("TfpsApplyRowsRmsprop")
    .Attr("one_minus_rho: float")
    .Attr("momentum: float = 0")
    .Attr("centered: bool = false")
    .Attr("epsilon: float");

TFPS_REGISTER_WITH_SLOTS("TfpsApplyRowsFtrl")
    .Attr("learning_rate_power: float")
    .Attr("l1: float = 0")
    .Attr("l2: float = 0")
    .Attr("l2_shrinkage: float = 0")
    .Attr("beta: float = 0");

REGISTER_OP("TfpsApplyRowsAdam")
    .Input("tables: N * resource")
    .Input("slots: K * resource")
    .Input("learning_rate: float")
    .Input("step: int64")
    .Input("gradients: float")
    .Input("request: int64")
    .Attr("N: int >= 1")
    .Attr("K: int >= 1")
    .Attr("dim: int >= 1")
    .Attr("weight_decay: float = 0")
    .Attr("one_minus_beta_1: float")
    .Attr("one_minus_beta_2: float")
    .Attr("epsilon: float")
    .SetIsStateful()
    .SetShapeFn(ApplyRowsShape)
    .Doc(kDoc);

}  // namespace
}  // namespace tfps
