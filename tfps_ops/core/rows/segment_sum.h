// Sums of the gradients that belong to one row: the backward pass of a lookup, which copies a row to every place that asked
// for it.
//
// Example: a lookup of the ids 7 4 7 reads rows 1 0 1 of the answer (its `inverse`); the gradients a b c of the three places
// sum to b for row 0 and to a + c for row 1. A popular id has hundreds of places in a batch, and one row is sent back.
#ifndef TFPS_OPS_CORE_ROWS_SEGMENT_SUM_H_
#define TFPS_OPS_CORE_ROWS_SEGMENT_SUM_H_

#include <cstdint>
#include <vector>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/status.h"

namespace tfps {

// The gradients of one lookup; nothing is owned. A step has one segment for each lookup that it makes.
struct Segment {
  const float* gradients = nullptr;   // [count, dim]
  const int32_t* positions = nullptr; // [count], the row of the result that each belongs to
  int64_t count = 0;
};

// Whether every position is in [0, rows); the error names the first that is not. O(count).
Status CheckPositions(const Segment& segment, int64_t rows);

// out[r] = sum of the gradients whose position is r, [rows, dim]; rows that nothing belongs to become 0.
// Positions must be in range. Cost: O(rows * dim + count * dim), and count reads more for each thread.
// Threads: each takes a range of `rows` and adds in the order given, so any number of them gives the same bits.
void SegmentSum(const std::vector<Segment>& segments, int64_t rows, int64_t dim, float* out, const ParallelFor& parallel);

// What a gradient is measured by in the rules that look at its size (RuleBase::Measure).
enum class Measure { kSquare, kMagnitude };

// The rows of a SegmentSum that more than one gradient belongs to.
struct Repeats {
  std::vector<int32_t> index_of;  // [rows], the place of a row among those that repeat, or -1
  int64_t count = 0;
};

// Finds them. Positions must be in range. O(rows + count).
Repeats FindRepeats(const std::vector<Segment>& segments, int64_t rows);

// out[i] = sum of the measures of the gradients of repeated row i, [repeats.count, dim], each element by itself.
// Example: the gradients a b c of the rows 1 0 1 give a * a + c * c for row 1, the only one that repeats.
// Cost: O(repeats.count * dim + count * dim) at most, as the gradients of other rows are passed over. Threads as SegmentSum.
void SegmentSumMeasures(const std::vector<Segment>& segments, const Repeats& repeats, Measure measure, int64_t dim, float* out,
                        const ParallelFor& parallel);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROWS_SEGMENT_SUM_H_
