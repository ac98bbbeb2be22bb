// The border between the errors of the core and those of TensorFlow.
#ifndef TFPS_OPS_KERNELS_STATUS_CONVERSION_H_
#define TFPS_OPS_KERNELS_STATUS_CONVERSION_H_

#include "tensorflow/core/platform/errors.h"
#include "tfps_ops/core/status.h"

namespace tfps {

// The same error as TensorFlow knows it. What TensorFlow itself reports goes on as it is, never through tfps::Status: it
// has more codes, and payloads.
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

template <class T>
absl::Status ToTensorFlow(const Result<T>& result) {
  return ToTensorFlow(result.status());
}

}  // namespace tfps

#endif  // TFPS_OPS_KERNELS_STATUS_CONVERSION_H_
