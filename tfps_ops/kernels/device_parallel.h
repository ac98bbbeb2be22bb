// The core's ParallelFor on the thread pool of the device that runs the kernel.
#ifndef TFPS_OPS_KERNELS_DEVICE_PARALLEL_H_
#define TFPS_OPS_KERNELS_DEVICE_PARALLEL_H_

#include <algorithm>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/parallel.h"

namespace tfps {

// What a thread must be given to be worth waking: less, and the CPU time of a step grows more than its duration shrinks.
constexpr int64_t kNanosecondsAThread = 200'000;

// Valid as long as `context` is.
inline ParallelFor DeviceParallel(tensorflow::OpKernelContext* context) {
  using Params = tensorflow::thread::ThreadPool::SchedulingParams;
  using Strategy = tensorflow::thread::ThreadPool::SchedulingStrategy;
  auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
  return [pool](int64_t total, int64_t nanoseconds, const RangeWork& work) {
    const int64_t worth = total * nanoseconds / kNanosecondsAThread;
    const int64_t ranges = std::min<int64_t>({worth, pool->NumThreads(), total});
    if (ranges <= 1) return InCallersThread(total, nanoseconds, work);
    pool->ParallelFor(total, Params(Strategy::kFixedBlockSize, {}, (total + ranges - 1) / ranges), work);
  };
}

}  // namespace tfps

#endif  // TFPS_OPS_KERNELS_DEVICE_PARALLEL_H_
