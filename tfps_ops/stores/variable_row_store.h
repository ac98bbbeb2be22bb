// A RowStore over tf.Variables: row i of the table is row i of a matrix, and each slot is a variable of its own.
//
// So TensorFlow's own ops (checkpoints, assignments, dense reads) see the very same rows.
#ifndef TFPS_OPS_STORES_VARIABLE_ROW_STORE_H_
#define TFPS_OPS_STORES_VARIABLE_ROW_STORE_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/stores/row_matrix.h"
#include "tfps_ops/core/stores/row_store.h"
#include "tfps_ops/stores/variables.h"

namespace tfps {

// A view that lives as long as one Compute: the rows are the variables', and only references to them are held here.
// Threads and moments: as variables.h says. All rows of one call are of one moment. A scan is refused where the table has
// shrunk since its last chunk.
// Errors beyond those of RowStore: FailedPrecondition where the table is not initialized; InvalidArgument where a variable is
// no float matrix, the table is not [any, dim], or a slot has not the rows of the table.
class VariableRowStore : public RowStore {
 public:
  // `vars` are the table and then its slots, at most kMaxSlots. `context` must outlive this: an update may need memory of it.
  VariableRowStore(::tensorflow::OpKernelContext* context, std::vector<VarPtr> vars, int64_t dim)
      : context_(context), vars_(std::move(vars)), dim_(dim) {}

  Status CopyRows(const RowKeys& keys, const RowBuffer& out, const ParallelFor& parallel) override;
  Status UpdateRows(const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys, const RowGradients& gradients,
                    const ParallelFor& parallel) override;
  Result<RowChunk> ScanRows(int64_t cursor, int64_t max_rows) const override;

 private:
  // Checks the variables, whose locks are held, and views them. The buffers are those of now: MakeWritable may change them.
  Status View(RowMatrix* matrix) const;

  ::tensorflow::OpKernelContext* const context_;
  const std::vector<VarPtr> vars_;
  const int64_t dim_;
};

}  // namespace tfps

#endif  // TFPS_OPS_STORES_VARIABLE_ROW_STORE_H_
