// Updates of rows that are not all floats (rows/storage.h): a few rows at a time are widened, updated, rounded and written back.
#ifndef TFPS_OPS_CORE_STORES_STORED_UPDATE_H_
#define TFPS_OPS_CORE_STORES_STORED_UPDATE_H_

#include "tfps_ops/core/stores/row_matrix.h"

namespace tfps {

// As UpdateRows of row_matrix.h, for a matrix of any storage. The rounding follows from matrix.update, and from the rows and slots
// alone: neither the order of the rows nor the number of threads matters.
void UpdateStoredRows(const RowMatrix& matrix, const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys,
                      const RowGradients& gradients, const ParallelFor& parallel);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_STORES_STORED_UPDATE_H_
