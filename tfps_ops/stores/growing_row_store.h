// A RowStore over a table that grows: the keys are any int64, and the slots are columns of the same blocks.
#ifndef TFPS_OPS_STORES_GROWING_ROW_STORE_H_
#define TFPS_OPS_STORES_GROWING_ROW_STORE_H_

#include <utility>
#include <vector>

#include "tensorflow/core/platform/refcount.h"
#include "tfps_ops/core/stores/row_store.h"
#include "tfps_ops/stores/growing_column.h"

namespace tfps {

using GrowingColumnPtr = ::tensorflow::core::RefCountPtr<GrowingColumn>;

// A view that lives as long as one Compute. The rows of one call are not of one moment; each row is.
// Errors beyond those of RowStore: InvalidArgument where the columns are not of one table, or the width is another.
class GrowingRowStore : public RowStore {
 public:
  // `columns` are the table's and then its slots'. `training`: whether copied rows are about to be updated.
  GrowingRowStore(std::vector<GrowingColumnPtr> columns, int64_t dim, bool training)
      : columns_(std::move(columns)), dim_(dim), training_(training) {}

  Status CopyRows(const RowKeys& keys, const RowBuffer& out, const ParallelFor& parallel) override;
  Status UpdateRows(const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys, const RowGradients& gradients,
                    const ParallelFor& parallel) override;
  Result<RowChunk> ScanRows(int64_t cursor, int64_t max_rows) const override;

 private:
  Status Check() const;
  GrowingRows& rows() const { return columns_[0]->rows(); }

  const std::vector<GrowingColumnPtr> columns_;
  const int64_t dim_;
  // Whether CopyRows touches the rows.
  const bool training_;
};

}  // namespace tfps

#endif  // TFPS_OPS_STORES_GROWING_ROW_STORE_H_
