// The result is written in one pass, row by row of each thread's range: it need not be cleared by another op first.
#include "tfps_ops/core/rows/segment_sum.h"

#include <algorithm>

#include "tfps_ops/core/row_kernels.h"

namespace tfps {

Status CheckPositions(const Segment& segment, int64_t rows) {
  for (int64_t i = 0; i < segment.count; ++i) {
    if (segment.positions[i] < 0 || segment.positions[i] >= rows) {
      return InvalidArgument("rows must be at least 0 and below num_rows, ", rows, ". Received: ", segment.positions[i],
                             " as element ", i, ".");
    }
  }
  return Status();
}

void SegmentSum(const std::vector<Segment>& segments, int64_t rows, int64_t dim, float* out,
                const ParallelFor& parallel) {
  const RowKernels& kernels = RowKernelsFor(BestCpuTarget());
  int64_t count = 0;
  for (const Segment& segment : segments) count += segment.count;
  // About a nanosecond for four floats added, shared out evenly over the rows of the result.
  const int64_t nanoseconds = rows == 0 ? 1 : std::max<int64_t>(1, (rows + count) * dim / (4 * rows));
  // Threads split the rows of the result, not the gradients: no two threads add to the same row, and each adds in the order
  // of the gradients. So any number of threads gives the same bits, for which each thread reads all positions.
  parallel(rows, nanoseconds, [&](int64_t begin, int64_t end) {
    std::fill(out + begin * dim, out + end * dim, 0.0f);
    for (const Segment& segment : segments) {
      kernels.add({segment.gradients, segment.positions, segment.count, dim, begin, end, out});
    }
  });
}

}  // namespace tfps
