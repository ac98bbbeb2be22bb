// Copies of rows out of a matrix, in any order: the gather of a lookup.
//
// Example: rows {2, 0} of a matrix of 3 columns give its floats 6 to 8 and then 0 to 2.
#ifndef TFPS_OPS_CORE_ROWS_ROW_COPY_H_
#define TFPS_OPS_CORE_ROWS_ROW_COPY_H_

#include <cstdint>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/rows/storage.h"

namespace tfps {

// out[i] = matrix[rows[i]] for the `count` rows, [count, dim]. A row may come twice.
// The caller has checked that rows are within the matrix, and sees to it that nobody writes to it meanwhile.
// Cost: one fetch from memory a row, several under way at a time, as the rows to come are prefetched.
// Threads: the output is split between the threads of `parallel`, so any number of them gives the same result.
void CopyMatrixRows(const float* matrix, const int64_t* rows, int64_t count, int64_t dim, float* out,
                    const ParallelFor& parallel);

// The same for a matrix of any storage, into a buffer of any.
void CopyStoredRows(const void* matrix, Storage storage, const int64_t* rows, int64_t count, int64_t dim, const RowBuffer& out,
                    const ParallelFor& parallel);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROWS_ROW_COPY_H_
