// Everything is checked first and done then: a call that is refused has not touched a row.
#include "tfps_ops/core/stores/row_matrix.h"

#include <algorithm>
#include <numeric>

#include "tfps_ops/core/rows/row_conversion.h"
#include "tfps_ops/core/rows/row_copy.h"
#include "tfps_ops/core/stores/stored_update.h"

namespace tfps {

bool RowMatrix::IsFloats() const {
  bool is_floats = storage == Storage::kFloat32;
  for (int i = 0; i < slot_count; ++i) is_floats = is_floats && slots[i].storage == Storage::kFloat32;
  return is_floats;
}

// One pass before the first row is touched, so that a refused call has changed nothing. Keys follow each other in memory, so
// it costs little beside the fetches of the rows.
Status CheckKeys(const RowKeys& keys, int64_t rows) {
  for (int64_t i = 0; i < keys.count; ++i) {
    if (keys.keys[i] < 0 || keys.keys[i] >= rows) {
      return InvalidArgument("rows must be at least 0 and below ", rows, ". Received: ", keys.keys[i], ".");
    }
  }
  return Status();
}

Status CheckSlots(const RowMatrix& matrix, const RowUpdater& updater) {
  if (matrix.slot_count != updater.slots()) {
    return InvalidArgument("the optimizer needs ", updater.slots(), " slots. Received: ", matrix.slot_count, ".");
  }
  for (int i = 0; i < matrix.slot_count; ++i) {
    const int64_t width = updater.SlotWidth(i, matrix.dim);
    if (matrix.slots[i].width != width) {
      return InvalidArgument("slot ", i, " must have ", width, " columns for rows of ", matrix.dim, ". Received: ",
                             matrix.slots[i].width, " columns.");
    }
  }
  return Status();
}

Status CopyRows(const RowMatrix& matrix, const RowKeys& keys, const RowBuffer& out, const ParallelFor& parallel) {
  TFPS_RETURN_IF_ERROR(CheckKeys(keys, matrix.rows));
  CopyStoredRows(matrix.table, matrix.storage, keys.keys, keys.count, matrix.dim, out, parallel);
  return Status();
}

Status CheckUpdate(const RowMatrix& matrix, const RowUpdater& updater, const RowKeys& keys) {
  TFPS_RETURN_IF_ERROR(CheckKeys(keys, matrix.rows));
  // Whether the slots are the optimizer's: another optimizer's slots would be read as numbers of this one.
  return CheckSlots(matrix, updater);
}

void UpdateRows(const RowMatrix& matrix, const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys,
                const RowGradients& gradients, const ParallelFor& parallel) {
  if (!matrix.IsFloats()) return UpdateStoredRows(matrix, updater, hyperparameters, keys, gradients, parallel);
  // The loops of row_kernels.inc take plain pointers.
  RowBlock block;
  block.table = static_cast<float*>(matrix.table);
  for (int i = 0; i < matrix.slot_count; ++i) block.slots[i] = static_cast<float*>(matrix.slots[i].values);
  block.rows = keys.keys;
  block.gradients = gradients.sums;
  block.measures = gradients.measures;
  block.count = keys.count;
  block.dim = matrix.dim;
  // Rows are different, so the updater may split them over threads.
  updater.Apply(hyperparameters, block, parallel);
}

Result<RowChunk> ScanRows(const RowMatrix& matrix, int64_t cursor, int64_t max_rows) {
  // A chunk of no rows would be a scan that never ends.
  if (max_rows < 1) return InvalidArgument("`max_rows` must be at least 1. Received: ", max_rows, ".");
  // A cursor is a row. An empty table is at its end at once, with the cursor 0.
  if (cursor < 0 || cursor > matrix.rows) {
    return InvalidArgument("`cursor` must be 0 or come from an earlier chunk of a scan of ", matrix.rows,
                           " rows. Received: ", cursor, ".");
  }
  // Not cursor + max_rows, which overflows for a caller that wants everything.
  const int64_t end = cursor + std::min(max_rows, matrix.rows - cursor);
  RowChunk chunk;
  chunk.keys.resize(end - cursor);
  std::iota(chunk.keys.begin(), chunk.keys.end(), cursor);
  chunk.slots.resize(matrix.slot_count);
  for (int i = 0; i <= matrix.slot_count; ++i) {
    const SlotMatrix part = matrix.part(i);
    std::vector<float>& out = i == 0 ? chunk.rows : chunk.slots[i - 1];
    out.resize((end - cursor) * part.width);
    // Rows that follow each other are one copy.
    const uint8_t* first = static_cast<const uint8_t*>(part.values) + cursor * part.width * BytesOf(part.storage);
    WidenRow(first, part.storage, static_cast<int64_t>(out.size()), out.data());
  }
  // The last chunk says that it is the last, so that no reader asks for one more.
  chunk.cursor = end == matrix.rows ? RowStore::kEnd : end;
  return chunk;
}

}  // namespace tfps
