// Rows of a bag combined into one, and the way back: the gradients of the rows and of the weights.
//
// A bag is a segment of the elements, which stand in the order of their bags; an element asks for the row at its place.
// With the weights w and the rows r of one bag, `combined` is
//   sum: sum(w * r)    mean: sum(w * r) / sum(w)    sqrtn: sum(w * r) / sqrt(sum(w * w))
// and 0 where there is nothing, or 0 to divide by; gradients are 0 there, too. Example: places {4, 0, 4}, segments {0, 0, 2}
// and 3 bags: combined[0] is of rows 4 and 0, combined[1] is 0, combined[2] is row 4.
//
// Rows are never copied out element by element. Threads: any number gives the same bits, as does any CPU; nothing is kept
// between calls.
#ifndef TFPS_OPS_CORE_ROWS_SEGMENT_COMBINE_H_
#define TFPS_OPS_CORE_ROWS_SEGMENT_COMBINE_H_

#include <cstdint>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/status.h"

namespace tfps {

// As the combiners of tf.nn.embedding_lookup_sparse.
enum class Combiner { kSum, kMean, kSqrtn };

// The elements of all bags; nothing is owned.
struct Bags {
  Combiner combiner = Combiner::kSum;
  const int32_t* places = nullptr;    // [elements], each in [0, rows)
  const int64_t* segments = nullptr;  // [elements], each in [0, count), ascending
  const float* weights = nullptr;     // [elements], or null where all are 1
  int64_t elements = 0;
  int64_t rows = 0;   // rows there are to ask for
  int64_t count = 0;  // bags, some of which may be empty
  int64_t dim = 0;
};

// Whether places and segments keep their rules above; the error names the first element that does not. O(elements).
Status CheckBags(const Bags& bags);

// combined[s] as above, [count, dim], of rows [rows, dim]. Cost: O((elements + count) * dim), one read of a row an element.
// Threads: each takes a range of bags.
void CombineRows(const Bags& bags, const float* rows, float* combined, const ParallelFor& parallel);

// sums[r] = what the gradients of `combined`, [count, dim], come to for row r, over all of its places: [rows, dim].
// Cost: O((rows + elements) * dim), 4 bytes an element beside the result, and a read of the places for each thread, as
// each takes a range of rows.
void CombineRowsGradient(const Bags& bags, const float* gradients, float* sums, const ParallelFor& parallel);

// out[i] = the gradient of weights[i], [elements]. Cost and threads as for CombineRows.
void CombineWeightsGradient(const Bags& bags, const float* gradients, const float* rows, float* out,
                            const ParallelFor& parallel);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROWS_SEGMENT_COMBINE_H_
