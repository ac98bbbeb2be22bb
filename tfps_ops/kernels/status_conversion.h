// The border between the errors of the core and those of TensorFlow.
//
// Kernels make their own errors as the core does, by InvalidArgument(...) and others, and convert them here. The errors
// of TensorFlow itself are returned unchanged, never as a tfps::Status: they have more codes, and payloads.
#ifndef TFPS_OPS_KERNELS_STATUS_CONVERSION_H_
#define TFPS_OPS_KERNELS_STATUS_CONVERSION_H_

#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/errors.h"
#include "tfps_ops/core/status.h"

namespace tfps {

// The same error as TensorFlow knows it. Python sees kInvalidArgument as tf.errors.InvalidArgumentError, and so on.
inline absl::Status ToTensorFlow(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return absl::OkStatus();
    case StatusCode::kInvalidArgument:
      return absl::InvalidArgumentError(status.message());
    case StatusCode::kFailedPrecondition:
      return absl::FailedPreconditionError(status.message());
    case StatusCode::kResourceExhausted:
      return absl::ResourceExhaustedError(status.message());
  }
  return absl::UnknownError(status.message());
}

// The same with what the error is about in front: ToTensorFlow(status, "table ", 3) says "table 3: ...". The parts are put
// together for an error only, as this is called once a table on the path of every step.
template <class... Parts>
absl::Status ToTensorFlow(const Status& status, const Parts&... about) {
  return status.ok() ? absl::OkStatus() : ToTensorFlow(status.Prefixed(Concatenated(about..., ": ")));
}

template <class T>
absl::Status ToTensorFlow(const Result<T>& result) {
  return ToTensorFlow(result.status());
}

// The checks that many kernels make of their inputs.
// Whether input `name` is a vector: the shape function cannot say where it runs before the shape is known.
inline absl::Status CheckVector(const char* name, const ::tensorflow::Tensor& tensor) {
  if (tensor.dims() == 1) return absl::OkStatus();
  return ToTensorFlow(InvalidArgument("`", name, "` must be a vector. Received: shape ", tensor.shape().DebugString(), "."));
}

// Whether input `name` is one number that is at least 0.
inline absl::Status CheckCount(const char* name, const ::tensorflow::Tensor& tensor) {
  if (tensor.dims() == 0 && tensor.scalar<int64_t>()() >= 0) return absl::OkStatus();
  return ToTensorFlow(InvalidArgument("`", name, "` must be a scalar, at least 0. Received: ", tensor.SummarizeValue(4),
                                      " of shape ", tensor.shape().DebugString(), "."));
}

}  // namespace tfps

#endif  // TFPS_OPS_KERNELS_STATUS_CONVERSION_H_
