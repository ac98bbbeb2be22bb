// Registration, shape function and documentation of TfpsSplitRecords.
//
// The shape function checks that the bytes are a scalar.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status SplitRecordsShape(InferenceContext* c) {
  ShapeHandle scalar;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &scalar));
  c->set_output(0, c->Scalar());
  c->set_output(1, c->Vector(InferenceContext::kUnknownDim));
  c->set_output(2, c->Scalar());
  return absl::OkStatus();
}

// Not stateful: the same bytes give the same records.
REGISTER_OP("TfpsSplitRecords")
    .Input("bytes: string")
    .Output("valid: bool")
    .Output("records: string")
    .Output("end: int64")
    .SetShapeFn(SplitRecordsShape)
    .Doc(R"doc(
Finds the records in bytes of a TFRecord file (see core/text/records.h).

bytes: bytes that begin with a record.
valid: whether all checksums are right.
records: [records], the data of each whole record, up to the first wrong checksum.
end: where the last of them ends.
)doc");

}  // namespace
}  // namespace tfps
