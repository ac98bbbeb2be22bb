// The core's ParallelFor on the thread pool of the device that runs the kernel.
//
// The core says how many units of work there are and what one costs; this decides how many threads they are worth. A step has
// dozens of small pieces of work, and to wake a thread for each would cost more CPU than it saves time.
#ifndef TFPS_OPS_KERNELS_DEVICE_PARALLEL_H_
#define TFPS_OPS_KERNELS_DEVICE_PARALLEL_H_

#include <algorithm>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/parallel.h"

namespace tfps {

// The work that makes a thread worth waking. With less the CPU time of a step grows by more than its duration shrinks.
// Example: 10,000 rows at 30 ns each are 300 us, so they stay in the caller's thread; 20,000 rows are worth three threads.
constexpr int64_t kNanosecondsAThread = 200'000;

// Valid as long as `context` is.
inline ParallelFor DeviceParallel(tensorflow::OpKernelContext* context) {
  using Params = tensorflow::thread::ThreadPool::SchedulingParams;
  using Strategy = tensorflow::thread::ThreadPool::SchedulingStrategy;
  auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
  return [pool](int64_t total, int64_t nanoseconds, const RangeWork& work) {
    // Never more ranges than threads: one that waits for a free thread makes the others wait for it.
    const int64_t worth = total * nanoseconds / kNanosecondsAThread;
    const int64_t ranges = std::min<int64_t>({worth, pool->NumThreads(), total});
    if (ranges <= 1) return InCallersThread(total, nanoseconds, work);
    // Fixed blocks, of the size that gives so many: the pool's own estimate would cut finer.
    pool->ParallelFor(total, Params(Strategy::kFixedBlockSize, {}, (total + ranges - 1) / ranges), work);
  };
}

}  // namespace tfps

#endif  // TFPS_OPS_KERNELS_DEVICE_PARALLEL_H_
