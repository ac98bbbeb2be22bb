// Registration, shape function and documentation of TfpsParseLines.
//
// The shape function knows all but the number of rows.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status ParseLinesShape(InferenceContext* c) {
  ShapeHandle unused;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &unused));
  std::vector<int64_t> widths;
  TF_RETURN_IF_ERROR(c->GetAttr("widths", &widths));
  c->set_output(0, c->Scalar());
  const int outputs = c->num_outputs() - 1;
  if (static_cast<int>(widths.size()) != outputs) {
    return absl::InvalidArgumentError("`widths` must have one for each output.");
  }
  for (int i = 1; i <= outputs; ++i) {
    const int64_t width = widths[i - 1];
    if (width < 0) return absl::InvalidArgumentError("`widths` must be at least 0.");
    c->set_output(i, width == 0 ? c->Vector(InferenceContext::kUnknownDim)
                                : c->Matrix(InferenceContext::kUnknownDim, width));
  }
  return absl::OkStatus();
}

// Not stateful: the same text gives the same rows.
REGISTER_OP("TfpsParseLines")
    .Input("text: string")
    .Input("fields: int32")
    .Output("parsed: bool")
    .Output("values: dtypes")
    .Attr("dtypes: list({int8, int16, int32, int64, uint8, uint16, uint32, uint64, float, double, string}) >= 1")
    .Attr("widths: list(int) >= 1")
    .Attr("outputs: list(int) >= 1")
    .Attr("buckets: list(int) >= 1")
    .Attr("prefixes: list(string) >= 1")
    .Attr("required: list(bool) >= 1")
    .Attr("defaults: list(string) >= 1")
    .Attr("delimiter: string")
    .Attr("has_quotes: bool")
    .SetShapeFn(ParseLinesShape)
    .Doc(R"doc(
Parses whole lines of CSV or TSV into columns (see core/text/line_parser.h). Text that it does not know, or that is wrong, it
declines.

text: whole lines; the last one may have no end.
fields: [cells of a line]: the column of each cell, or -1 for one that is not read. Each column is there once.
parsed: whether the text was parsed; otherwise the values have no rows.
values: each [rows], or [rows, width] with a width.
dtypes: the type of each output.
widths: the columns of each output; 0 for a vector of one column.
outputs: for each column its output. Columns of one output follow one another in it in this order.
buckets: for each column the number of buckets into which its strings are hashed; 0 for a column that is not hashed.
prefixes: for each column what stands before its strings when they are hashed.
required: for each column whether an empty cell is wrong.
defaults: for each column what an empty cell counts as, if it is not wrong.
delimiter: the character between cells.
has_quotes: whether a quote has a meaning, so that text with one is declined.
)doc");

}  // namespace
}  // namespace tfps
