// The core's ParallelFor on the thread pool of the device that runs the kernel.
#ifndef TFPS_OPS_KERNELS_DEVICE_PARALLEL_H_
#define TFPS_OPS_KERNELS_DEVICE_PARALLEL_H_

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/parallel.h"

namespace tfps {

// Valid as long as `context` is. The pool takes one unit as two cycles a nanosecond: too low costs a thread, no more.
inline ParallelFor DeviceParallel(tensorflow::OpKernelContext* context) {
  auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
  return [pool](int64_t total, int64_t nanoseconds, const RangeWork& work) {
    if (total > 0) pool->ParallelFor(total, 2 * nanoseconds, work);
  };
}

}  // namespace tfps

#endif  // TFPS_OPS_KERNELS_DEVICE_PARALLEL_H_
