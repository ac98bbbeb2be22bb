// How the core asks for threads without knowing whose they are.
//
// The core starts no thread and holds no pool: in a server the threads are TensorFlow's, which other ops share, and in tests
// they are whatever the test wants. Work must not depend on how it is split: every user of this gives the same bits for any
// number of threads, and tests hold them to that.
#ifndef TFPS_OPS_CORE_PARALLEL_H_
#define TFPS_OPS_CORE_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace tfps {

// Work on the half-open range [begin, end) of units.
using RangeWork = std::function<void(int64_t begin, int64_t end)>;

// Splits [0, total) into ranges that cover it exactly once, runs `work` on each, on any number of threads, and returns
// when all are done. `nanoseconds` is what one unit costs, about: work that is too small to be worth a thread stays on
// the caller's. The kernels pass TensorFlow's thread pool, tests pass InCallersThread or threads of their own.
using ParallelFor = std::function<void(int64_t total, int64_t nanoseconds, const RangeWork& work)>;

// The ParallelFor of one thread.
inline void InCallersThread(int64_t total, int64_t /*nanoseconds*/, const RangeWork& work) {
  if (total > 0) work(0, total);
}

}  // namespace tfps

#endif  // TFPS_OPS_CORE_PARALLEL_H_
