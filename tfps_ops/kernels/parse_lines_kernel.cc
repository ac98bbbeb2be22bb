// Kernel of TfpsParseLines: unpacks tensors and calls core/text/line_parser.h.
//
// Threads: a Compute has no state but its tensors and the parser, which is constant. Cost: that of the parser, and for a column
// of strings a copy of each.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor_util.h"
#include "tfps_ops/core/text/line_parser.h"
#include "tfps_ops/kernels/status_conversion.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

CellType CellTypeOf(tf::DataType dtype) {
  switch (dtype) {
    case tf::DT_INT8: return CellType::kInt8;
    case tf::DT_INT16: return CellType::kInt16;
    case tf::DT_INT32: return CellType::kInt32;
    case tf::DT_UINT8: return CellType::kUInt8;
    case tf::DT_UINT16: return CellType::kUInt16;
    case tf::DT_UINT32: return CellType::kUInt32;
    case tf::DT_UINT64: return CellType::kUInt64;
    case tf::DT_FLOAT: return CellType::kFloat32;
    case tf::DT_DOUBLE: return CellType::kFloat64;
    case tf::DT_STRING: return CellType::kString;
    // The op is registered for these types alone.
    default: return CellType::kInt64;
  }
}

class ParseLinesOp : public tf::OpKernel {
 public:
  explicit ParseLinesOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dtypes", &dtypes_));
    OP_REQUIRES_OK(context, context->GetAttr("widths", &widths_));
    OP_REQUIRES_OK(context, context->GetAttr("outputs", &outputs_));
    std::vector<TextColumn> columns;
    OP_REQUIRES_OK(context, ReadColumns(context, &columns));
    OP_REQUIRES_OK(context, FindSlots());
    std::string delimiter;
    bool has_quotes;
    OP_REQUIRES_OK(context, context->GetAttr("delimiter", &delimiter));
    OP_REQUIRES_OK(context, context->GetAttr("has_quotes", &has_quotes));
    OP_REQUIRES(context, delimiter.size() == 1,
                ToTensorFlow(InvalidArgument("`delimiter` must be one character. Received: '", delimiter, "'.")));
    Result<LineParser> made = LineParser::Make(std::move(columns), delimiter[0], has_quotes);
    OP_REQUIRES_OK(context, ToTensorFlow(made));
    parser_ = std::make_unique<LineParser>(std::move(made.value()));
  }

  void Compute(tf::OpKernelContext* context) override {
    OP_REQUIRES(context, context->input(0).dims() == 0,
                ToTensorFlow(InvalidArgument("`text` must be a scalar. Received: shape ",
                                             context->input(0).shape().DebugString(), ".")));
    std::vector<int32_t> fields;
    OP_REQUIRES_OK(context, ReadFields(context->input(1), &fields));
    const tf::tstring& bytes = context->input(0).scalar<tf::tstring>()();
    const std::string_view text(bytes.data(), bytes.size());
    const int64_t room = LineParser::CountLines(text);
    std::vector<tf::Tensor> values(dtypes_.size());
    for (size_t i = 0; i < values.size(); ++i) {
      OP_REQUIRES_OK(context, context->allocate_temp(dtypes_[i], ShapeOf(i, room), &values[i]));
    }
    std::vector<std::vector<std::string_view>> strings(dtypes_.size());
    int64_t rows = 0;
    const bool parsed = parser_->Parse(text, fields, Targets(room, &values, &strings), &rows);
    if (!parsed) rows = 0;
    tf::Tensor* flag = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &flag));
    flag->scalar<bool>()() = parsed;
    for (size_t i = 0; i < values.size(); ++i) {
      CopyStrings(rows * std::max<int64_t>(widths_[i], 1), strings[i], &values[i]);
      // Empty lines are no rows, so there may be fewer than lines. A copy, because a slice would keep all of the memory, and
      // TensorFlow logs an error whenever it cuts a slice again.
      context->set_output(static_cast<int>(i) + 1,
                          rows == room ? values[i] : tf::tensor::DeepCopy(values[i].Slice(0, rows)));
    }
  }

 private:
  absl::Status ReadColumns(tf::OpKernelConstruction* context, std::vector<TextColumn>* columns) const {
    std::vector<int64_t> buckets;
    std::vector<std::string> prefixes, defaults;
    std::vector<bool> required;
    TF_RETURN_IF_ERROR(context->GetAttr("buckets", &buckets));
    TF_RETURN_IF_ERROR(context->GetAttr("prefixes", &prefixes));
    TF_RETURN_IF_ERROR(context->GetAttr("defaults", &defaults));
    TF_RETURN_IF_ERROR(context->GetAttr("required", &required));
    const size_t count = outputs_.size();
    if (buckets.size() != count || prefixes.size() != count || defaults.size() != count || required.size() != count ||
        widths_.size() != dtypes_.size()) {
      return ToTensorFlow(InvalidArgument("the lists of columns must have one length, and those of outputs too. Received: ", count,
                                          ", ", buckets.size(), ", ", prefixes.size(), ", ", defaults.size(), ", ",
                                          required.size(), "; ", dtypes_.size(), ", ", widths_.size(), "."));
    }
    for (size_t i = 0; i < count; ++i) {
      if (outputs_[i] < 0 || outputs_[i] >= static_cast<int64_t>(dtypes_.size())) {
        return ToTensorFlow(
            InvalidArgument("`outputs` must be at least 0 and below ", dtypes_.size(), ". Received: ", outputs_[i], "."));
      }
      const tf::DataType dtype = dtypes_[outputs_[i]];
      if (buckets[i] != 0 && dtype != tf::DT_INT64) {
        return ToTensorFlow(InvalidArgument("buckets must be int64. Received: ", tf::DataTypeString(dtype), "."));
      }
      columns->push_back({buckets[i] != 0 ? CellType::kBucket : CellTypeOf(dtype), defaults[i], !required[i], buckets[i],
                          prefixes[i]});
    }
    return absl::OkStatus();
  }

  // Gives each column its place in its output, and checks that every output is filled.
  absl::Status FindSlots() {
    std::vector<int64_t> filled(dtypes_.size());
    for (const int64_t output : outputs_) slots_.push_back(filled[output]++);
    for (size_t i = 0; i < filled.size(); ++i) {
      if (widths_[i] >= 0 && filled[i] == std::max<int64_t>(widths_[i], 1)) continue;
      return ToTensorFlow(
          InvalidArgument("`widths` must be the numbers of columns. Received: ", widths_[i], " for ", filled[i], "."));
    }
    return absl::OkStatus();
  }

  absl::Status ReadFields(const tf::Tensor& tensor, std::vector<int32_t>* fields) const {
    TF_RETURN_IF_ERROR(CheckVector("fields", tensor));
    const int32_t* const begin = tensor.flat<int32_t>().data();
    fields->assign(begin, begin + tensor.NumElements());
    std::vector<int> times(outputs_.size());
    for (const int32_t field : *fields) {
      if (field >= static_cast<int32_t>(times.size()) || field < -1) {
        return ToTensorFlow(InvalidArgument("`fields` must be -1 or below ", times.size(), ". Received: ", field, "."));
      }
      if (field >= 0) ++times[field];
    }
    // A column without a cell would keep whatever its memory had.
    for (const int count : times) {
      if (count != 1) return ToTensorFlow(InvalidArgument("`fields` must have each column once. Received one ", count, " times."));
    }
    return absl::OkStatus();
  }

  tf::TensorShape ShapeOf(size_t output, int64_t rows) const {
    return widths_[output] == 0 ? tf::TensorShape({rows}) : tf::TensorShape({rows, widths_[output]});
  }

  // Strings go to views first: the core knows no strings of TensorFlow.
  std::vector<CellTarget> Targets(int64_t room, std::vector<tf::Tensor>* values,
                                  std::vector<std::vector<std::string_view>>* strings) const {
    std::vector<CellTarget> targets;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const int64_t output = outputs_[i], width = std::max<int64_t>(widths_[output], 1);
      char* first = static_cast<char*>((*values)[output].data());
      int64_t size = tf::DataTypeSize(dtypes_[output]);
      if (dtypes_[output] == tf::DT_STRING) {
        (*strings)[output].resize(room * width);
        first = reinterpret_cast<char*>((*strings)[output].data());
        size = sizeof(std::string_view);
      }
      // No row is written where there is no room.
      targets.push_back({room == 0 ? nullptr : first + slots_[i] * size, width});
    }
    return targets;
  }

  static void CopyStrings(int64_t count, const std::vector<std::string_view>& views, tf::Tensor* values) {
    if (values->dtype() != tf::DT_STRING) return;
    auto strings = values->flat<tf::tstring>();
    for (int64_t i = 0; i < count; ++i) strings(i).assign(views[i].data(), views[i].size());
  }

  tf::DataTypeVector dtypes_;
  std::vector<int64_t> widths_;
  std::vector<int64_t> outputs_;
  std::vector<int64_t> slots_;  // [columns]: the place of each in its output
  std::unique_ptr<const LineParser> parser_;
};

REGISTER_KERNEL_BUILDER(Name("TfpsParseLines").Device(tf::DEVICE_CPU), ParseLinesOp);

}  // namespace
}  // namespace tfps
