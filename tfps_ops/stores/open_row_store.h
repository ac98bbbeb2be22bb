// From resource handles to the RowStore behind them.
//
// Example, in a kernel that updates table 1 of 2 with one slot: the handles are inputs 1 and 3, as inputs are all tables and
// then the first slot of every table.
#ifndef TFPS_OPS_STORES_OPEN_ROW_STORE_H_
#define TFPS_OPS_STORES_OPEN_ROW_STORE_H_

#include <memory>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/stores/row_store.h"
#include "tfps_ops/stores/growing_row_store.h"

namespace tfps {

// Opens the rows behind `handles`: those of a table and then of each of its slots, in the optimizer's order. The type of the
// first handle says which kind of store it is.
//
// `dim` is the width of a row that the caller expects. `context` must outlive the store. `training`: whether a step will update
// the rows that it copies; tables that evict rows want to know.
// Errors: InvalidArgument for a handle that is no scalar or of a type that has no rows; what TensorFlow says of a resource
// that is not there. The contents are checked by the store's own methods, under its locks.
// Cost: a lookup by name in the resource manager for each handle, no lock of the rows, two small allocations.
absl::Status OpenRowStore(::tensorflow::OpKernelContext* context,
                          const std::vector<const ::tensorflow::Tensor*>& handles, int64_t dim,
                          std::unique_ptr<RowStore>* store, bool training = false);

// Finds the column of a table that grows behind a handle.
absl::Status FindColumn(::tensorflow::OpKernelContext* context, const ::tensorflow::Tensor& handle, GrowingColumnPtr* column);

}  // namespace tfps

#endif  // TFPS_OPS_STORES_OPEN_ROW_STORE_H_
