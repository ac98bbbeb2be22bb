// Registration, shape function and documentation of TfpsDrawTargets.
//
// The shape function knows all but the number of positives.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// The result has a row for each positive: it, and then the negatives.
absl::Status DrawTargetsShape(InferenceContext* c) {
  ShapeHandle positives, aliases, seed;
  DimensionHandle two;
  int64_t negatives = 0;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &positives));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &aliases));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &seed));
  // A key and a counter, as the state of a tf.random.Generator has them.
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(seed, 0), 2, &two));
  TF_RETURN_IF_ERROR(c->GetAttr("negatives", &negatives));
  c->set_output(0, c->Matrix(c->Dim(positives, 0), 1 + negatives));
  return absl::OkStatus();
}

// Not stateful, unlike ops that draw from a generator: the seed is an input, so the same inputs draw the same rows, and the
// graph may be optimized as any other.
REGISTER_OP("TfpsDrawTargets")
    .Input("positives: int64")
    .Input("aliases: int64")
    .Input("seed: int64")
    .Output("targets: int64")
    .Attr("rows: int >= 2")
    .Attr("negatives: int >= 1")
    .SetShapeFn(DrawTargetsShape)
    .Doc(R"doc(
Draws rows at random beside each positive one. What is drawn follows from `seed` and the place alone.

positives: [n], the positive row of each pair.
aliases: [rows], the alias table of what is drawn from (see core/negative_sampler.h); empty, where each row is as likely as
  another.
seed: [2], a key and a counter.
targets: [n, 1 + negatives]: the positive row, then others, none of which is the positive one.
)doc");

}  // namespace
}  // namespace tfps
