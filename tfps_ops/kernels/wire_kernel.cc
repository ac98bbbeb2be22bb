// Kernels of the ops in ops/wire_ops.cc: unpack tensors and call core/wire/.
//
// Threads: the codecs keep no state; the store of errors is guarded by the locks of its variables. Errors: messages come over
// a network, so every size in them is checked before memory is touched.
#include <cstring>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tfps_ops/core/wire/error_store.h"
#include "tfps_ops/core/wire/request_codec.h"
#include "tfps_ops/core/wire/row_codec.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/status_conversion.h"
#include "tfps_ops/stores/variables.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// An op with the attribute `codec`.
class CodecOp : public tf::OpKernel {
 public:
  explicit CodecOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::string codec;
    // The op's registration allows these two names only.
    OP_REQUIRES_OK(context, context->GetAttr("codec", &codec));
    codec_ = codec == "int8" ? RowCodec::kInt8 : RowCodec::kBfloat16;
  }

 protected:
  // Whether the last input is a matrix; the shape function cannot say so where it runs before the shape is known.
  static absl::Status CheckRows(const tf::Tensor& rows) {
    if (rows.dims() == 2) return absl::OkStatus();
    return ToTensorFlow(InvalidArgument("`rows` must be a matrix. Received: shape ", rows.shape().DebugString(), "."));
  }

  RowCodec codec_ = RowCodec::kBfloat16;
};

class EncodeRowsOp : public CodecOp {
 public:
  explicit EncodeRowsOp(tf::OpKernelConstruction* context) : CodecOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("stochastic", &stochastic_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& rows = context->input(0);
    OP_REQUIRES_OK(context, CheckRows(rows));
    const int64_t count = rows.dim_size(0), dim = rows.dim_size(1);
    tf::Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({CodedFloats(codec_, count, dim)}), &out));
    EncodeRows(codec_, rows.flat<float>().data(), count, dim, stochastic_, out->flat<float>().data(),
               DeviceParallel(context));
  }

 private:
  bool stochastic_ = false;
};

class DecodeRowsOp : public CodecOp {
 public:
  explicit DecodeRowsOp(tf::OpKernelConstruction* context) : CodecOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& coded = context->input(0);
    OP_REQUIRES_OK(context, CheckVector("coded", coded));
    OP_REQUIRES_OK(context, CheckCount("count", context->input(1)));
    const int64_t count = context->input(1).scalar<int64_t>()();
    OP_REQUIRES_OK(context, ToTensorFlow(CheckCoded(codec_, coded.NumElements(), count, dim_)));
    tf::Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({count, dim_}), &out));
    DecodeRows(codec_, coded.flat<float>().data(), count, dim_, out->flat<float>().data(), DeviceParallel(context));
  }

 private:
  int64_t dim_ = 0;
};

// An op with the attributes of a request.
class RequestOp : public tf::OpKernel {
 public:
  explicit RequestOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("pieces", &pieces_));
    OP_REQUIRES_OK(context, context->GetAttr("marked", &marked_));
  }

 protected:
  // Makes the output from what a function of core/wire/request_codec.h returned.
  template <class T>
  static void Return(tf::OpKernelContext* context, const Result<std::vector<T>>& found) {
    OP_REQUIRES_OK(context, ToTensorFlow(found));
    const std::vector<T>& values = found.value();
    tf::Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({static_cast<int64_t>(values.size())}), &out));
    if (!values.empty()) std::memcpy(out->flat<T>().data(), values.data(), values.size() * sizeof(T));
  }

  int64_t pieces_ = 0;
  bool marked_ = false;
};

class EncodeRequestOp : public RequestOp {
 public:
  using RequestOp::RequestOp;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& request = context->input(0);
    OP_REQUIRES_OK(context, CheckVector("request", request));
    Return(context, EncodeRequest(reinterpret_cast<const int64_t*>(request.flat<int64_t>().data()), request.NumElements(),
                                  pieces_, marked_));
  }
};

class DecodeRequestOp : public RequestOp {
 public:
  using RequestOp::RequestOp;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& coded = context->input(0);
    OP_REQUIRES_OK(context, CheckVector("coded", coded));
    Return(context, DecodeRequest(coded.flat<float>().data(), coded.NumElements(), pieces_, marked_));
  }
};

class EncodeWithErrorsOp : public CodecOp {
 public:
  explicit EncodeWithErrorsOp(tf::OpKernelConstruction* context) : CodecOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("pieces", &pieces_));
    OP_REQUIRES_OK(context, context->GetAttr("marked", &marked_));
    OP_REQUIRES_OK(context, context->GetAttr("places_log2", &places_log2_));
    OP_REQUIRES(context, places_log2_ <= kMostPlacesLog2,
                absl::InvalidArgumentError(Concatenated("`places_log2` must be 1 to ", kMostPlacesLog2,
                                                        ". Received: ", places_log2_, ".")));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &request = context->input(2), &rows = context->input(3);
    OP_REQUIRES_OK(context, CheckVector("request", request));
    OP_REQUIRES_OK(context, CheckRows(rows));
    const int64_t count = rows.dim_size(0), dim = rows.dim_size(1), places = int64_t{1} << places_log2_;
    OP_REQUIRES(context, request.NumElements() == pieces_ + count,
                absl::InvalidArgumentError(Concatenated("`request` must have ", pieces_, " counts and ", count,
                                                        " rows. Received: ", request.NumElements(), " elements.")));
    std::vector<VarPtr> vars(2);
    OP_REQUIRES_OK(context, MakeVariable(context, 0, &vars[0]));
    OP_REQUIRES_OK(context, MakeVariable(context, 1, &vars[1]));
    tf::Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({CodedFloats(codec_, count, dim)}), &out));
    const VariableLocks locks(vars, LockMode::kExclusive);
    OP_REQUIRES_OK(context, Begin(context, tf::TensorShape({places}), vars[0].get()));
    OP_REQUIRES_OK(context, Begin(context, tf::TensorShape({places, dim}), vars[1].get()));
    const ErrorStore store = {reinterpret_cast<int64_t*>(vars[0]->tensor()->flat<int64_t>().data()),
                              vars[1]->tensor()->flat<float>().data(), places_log2_};
    OP_REQUIRES_OK(context,
                   ToTensorFlow(EncodeWithErrors(
                       codec_, reinterpret_cast<const int64_t*>(request.flat<int64_t>().data()), request.NumElements(),
                       pieces_, marked_, rows.flat<float>().data(), dim, store, out->flat<float>().data(),
                       DeviceParallel(context))));
  }

 private:
  static constexpr int kMostPlacesLog2 = 30;

  // The variable behind an input, made if a new worker has none.
  static absl::Status MakeVariable(tf::OpKernelContext* context, int input, VarPtr* var) {
    const tf::Tensor& handle = context->input(input);
    if (handle.NumElements() != 1) {
      return ToTensorFlow(InvalidArgument("a variable's handle must be a scalar. Received: shape ",
                                          handle.shape().DebugString(), "."));
    }
    const tf::DataType dtype = input == 0 ? tf::DT_INT64 : tf::DT_FLOAT;
    return tf::LookupOrCreateResource<tf::Var>(context, handle.scalar<tf::ResourceHandle>()(), var, [dtype](tf::Var** made) {
      *made = new tf::Var(dtype);
      return absl::OkStatus();
    });
  }

  // Gives a variable, whose lock is held, zeros of this shape unless it has values.
  static absl::Status Begin(tf::OpKernelContext* context, const tf::TensorShape& shape, tf::Var* var) {
    if (!var->is_initialized || var->tensor()->shape() != shape) {
      tf::Tensor zeros;
      TF_RETURN_IF_ERROR(context->allocate_temp(var->tensor()->dtype(), shape, &zeros));
      std::memset(zeros.data(), 0, zeros.TotalBytes());
      *var->tensor() = zeros;
      var->is_initialized = true;
    }
    return ToTensorFlow(MakeWritable(context, var));
  }

  int64_t pieces_ = 0;
  bool marked_ = false;
  int places_log2_ = 1;
};

REGISTER_KERNEL_BUILDER(Name("TfpsEncodeRows").Device(tf::DEVICE_CPU), EncodeRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsDecodeRows").Device(tf::DEVICE_CPU), DecodeRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfpsEncodeRequest").Device(tf::DEVICE_CPU), EncodeRequestOp);
REGISTER_KERNEL_BUILDER(Name("TfpsDecodeRequest").Device(tf::DEVICE_CPU), DecodeRequestOp);
REGISTER_KERNEL_BUILDER(Name("TfpsEncodeWithErrors").Device(tf::DEVICE_CPU), EncodeWithErrorsOp);

}  // namespace
}  // namespace tfps
