// Registration, shape functions and documentation of the ops that make and tend tables that grow.
//
// Lookups, updates and scans are those of every table: TfpsGatherRows, TfpsApplyRows and TfpsScanRows take a handle of a table
// that grows in place of a variable's. All ops here are stateful: they read or change what is behind a handle.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status ScalarShape(InferenceContext* c) {
  for (int i = 0; i < c->num_outputs(); ++i) c->set_output(i, c->Scalar());
  return absl::OkStatus();
}

// The first input is a handle and the second a vector of keys; there is no output, or scalars.
absl::Status KeysShape(InferenceContext* c) {
  ShapeHandle checked;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &checked));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &checked));
  return ScalarShape(c);
}

absl::Status AssignShape(InferenceContext* c) {
  ShapeHandle keys, values;
  TF_RETURN_IF_ERROR(KeysShape(c));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &keys));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &values));
  DimensionHandle rows;
  return c->Merge(c->Dim(keys, 0), c->Dim(values, 0), &rows);
}

absl::Status SinceShape(InferenceContext* c) {
  // How many keys were touched is known when they are listed.
  c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
  c->set_output(1, c->Vector(InferenceContext::kUnknownDim));
  c->set_output(2, c->Scalar());
  c->set_output(3, c->Scalar());
  return absl::OkStatus();
}

absl::Status CountsShape(InferenceContext* c) {
  c->set_output(0, c->Vector(7));
  c->set_output(1, c->Vector(2));
  return absl::OkStatus();
}

REGISTER_OP("TfpsGrowingTable")
    .Output("table: resource")
    .Attr("dim: int >= 1")
    .Attr("storage: {float, bfloat16} = DT_FLOAT")
    .Attr("first: {'constant', 'uniform', 'normal', 'truncated_normal'} = 'constant'")
    .Attr("first_a: float = 0.0")
    .Attr("first_b: float = 0.0")
    .Attr("first_stream: list(int) = [0, 0, 0]")
    .Attr("admission: {'always', 'count', 'filter', 'probability'} = 'always'")
    .Attr("admission_count: int = 1")
    .Attr("admission_keys: int = 0")
    .Attr("admission_probability: float = 1.0")
    .Attr("reads_first_value: bool = false")
    .Attr("eviction: {'none', 'unseen', 'least_recent', 'least_frequent', 'small_norm', 'score'} = 'none'")
    .Attr("eviction_steps: int = 0")
    .Attr("eviction_seconds: float = 0.0")
    .Attr("eviction_threshold: float = 0.0")
    .Attr("eviction_decay: float = 1.0")
    .Attr("eviction_gain: float = 1.0")
    .Attr("max_rows: int = 0")
    .Attr("max_bytes: int = 0")
    .SetIsStateful()
    .SetShapeFn(ScalarShape)
    .Doc(R"doc(
Makes a table whose rows appear as their keys do; it ends with the last reference to its handle.

The attributes are those of core/growing/growing_rows.h.

table: The handle of the table, which stands for its rows.
storage: The type in which the elements of rows are stored; all ops take and give floats.
first_stream: The key of the Philox stream and the two words of its counter, the low word first, as bits of int64.
)doc");

REGISTER_OP("TfpsGrowingColumn")
    .Input("table: resource")
    .Output("column: resource")
    .Attr("width: int >= 1")
    .Attr("initial: float = 0.0")
    .Attr("storage: {float, bfloat16} = DT_FLOAT")
    .SetIsStateful()
    .SetShapeFn(ScalarShape)
    .Doc(R"doc(
Adds a column to every row of a table that grows, for a slot of an optimizer; it is dropped with the last reference to its handle.

initial: The first value of each of its elements.
storage: The type in which its elements are stored; all ops take and give floats.
)doc");

REGISTER_OP("TfpsGrowingMeta")
    .Input("table: resource")
    .Output("column: resource")
    .SetIsStateful()
    .SetShapeFn(ScalarShape)
    .Doc(R"doc(
The handle of the metadata of the rows of a table that grows, which is read and assigned like a column of three floats: the updates
of the table and the seconds since the row was touched, and its score.
)doc");

REGISTER_OP("TfpsAssignGrowing")
    .Input("column: resource")
    .Input("keys: int64")
    .Input("values: float")
    .SetIsStateful()
    .SetShapeFn(AssignShape)
    .Doc(R"doc(
Overwrites one column of the rows of `keys`, [n], and makes rows that are not there. Metadata of rows that are not there are passed over.
)doc");

REGISTER_OP("TfpsGrowingSince")
    .Input("table: resource")
    .Input("cursor: int64")
    .Output("touched: int64")
    .Output("evicted: int64")
    .Output("next_cursor: int64")
    .Output("complete: bool")
    .SetIsStateful()
    .SetShapeFn(SinceShape)
    .Doc(R"doc(
Keys that were touched, or evicted, after a cursor.

cursor: -1 to begin to record; or the next_cursor of an earlier call.
touched: Keys of rows that were updated and are there.
evicted: Keys of rows that went and are not there.
complete: False where evicted keys have been forgotten since the cursor.
)doc");

REGISTER_OP("TfpsGrowingCounts")
    .Input("table: resource")
    .Output("counts: int64")
    .Output("ratios: double")
    .SetIsStateful()
    .SetShapeFn(CountsShape)
    .Doc(R"doc(
counts: Rows now, bytes now, and so far: admitted keys, refused gradients, those refused by the budget, evicted rows, updates.
ratios: The load of the index, and the mean number of its buckets that a lookup of a row reads.
)doc");

REGISTER_OP("TfpsEraseGrowing")
    .Input("table: resource")
    .Input("keys: int64")
    .Output("erased: int64")
    .SetIsStateful()
    .SetShapeFn(KeysShape)
    .Doc("Removes the rows of `keys`, [n].");

REGISTER_OP("TfpsClearGrowing").Input("table: resource").SetIsStateful().SetShapeFn(ScalarShape).Doc("Removes all rows.");

REGISTER_OP("TfpsPinGrowing")
    .Input("table: resource")
    .Input("keys: int64")
    .Attr("pinned: bool")
    .SetIsStateful()
    .SetShapeFn(KeysShape)
    .Doc("Keeps the rows of `keys`, [n], from being evicted, or no longer does.");

REGISTER_OP("TfpsAddScores")
    .Input("table: resource")
    .Input("keys: int64")
    .Input("amounts: float")
    .SetIsStateful()
    .SetShapeFn(KeysShape)
    .Doc("Adds `amounts`, [n], to the scores of the rows of `keys`, [n], that are there.");

REGISTER_OP("TfpsEvictGrowing")
    .Input("table: resource")
    .Input("rows: int64")
    .Output("evicted: int64")
    .SetIsStateful()
    .SetShapeFn(ScalarShape)
    .Doc("Evicts what the rule of the table says among the next `rows` rows, for tables that no step updates.");

}  // namespace
}  // namespace tfps
