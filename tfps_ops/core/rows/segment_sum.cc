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

Repeats FindRepeats(const std::vector<Segment>& segments, int64_t rows) {
  // First -1 for a row that nothing belongs to, -2 after one gradient, and from the second on the place among the repeats.
  Repeats repeats;
  repeats.index_of.assign(rows, -1);
  for (const Segment& segment : segments) {
    for (int64_t i = 0; i < segment.count; ++i) {
      int32_t& index = repeats.index_of[segment.positions[i]];
      if (index == -1) index = -2;
      else if (index == -2) index = static_cast<int32_t>(repeats.count++);
    }
  }
  // In the order of the rows, so that a range of rows has a range of repeats.
  repeats.count = 0;
  for (int32_t& index : repeats.index_of) index = index >= 0 ? static_cast<int32_t>(repeats.count++) : -1;
  return repeats;
}

void SegmentSumMeasures(const std::vector<Segment>& segments, const Repeats& repeats, Measure measure, int64_t dim, float* out,
                        const ParallelFor& parallel) {
  if (repeats.count == 0) return;
  const RowKernels& kernels = RowKernelsFor(BestCpuTarget());
  const auto add = measure == Measure::kSquare ? kernels.add_squares : kernels.add_magnitudes;
  // The kernel passes over the positions of -1, as over those of other threads.
  std::vector<std::vector<int32_t>> positions;
  int64_t count = 0;
  for (const Segment& segment : segments) {
    positions.emplace_back(segment.count);
    for (int64_t i = 0; i < segment.count; ++i) positions.back()[i] = repeats.index_of[segment.positions[i]];
    count += segment.count;
  }
  const int64_t nanoseconds = std::max<int64_t>(1, (repeats.count + count) * dim / (4 * repeats.count));
  parallel(repeats.count, nanoseconds, [&](int64_t begin, int64_t end) {
    std::fill(out + begin * dim, out + end * dim, 0.0f);
    for (size_t s = 0; s < segments.size(); ++s) {
      add({segments[s].gradients, positions[s].data(), segments[s].count, dim, begin, end, out});
    }
  });
}

}  // namespace tfps
