// Copies of rows out of a table.
#ifndef TFPS_OPS_CORE_ROW_COPY_H_
#define TFPS_OPS_CORE_ROW_COPY_H_

#include <cstdint>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/row_request.h"

namespace tfps {

// out[i] = table[piece.rows[i]], [piece.count, dim]. Rows must be within the table.
// Cost: one fetch from memory a row, several under way at a time. Threads: the caller sees to it that nobody writes.
void CopyRows(const float* table, const PieceRows& piece, int64_t dim, float* out, const ParallelFor& parallel);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROW_COPY_H_
