// From handles to columns, and from metadata to floats; the work is core/growing's.
#include "tfps_ops/stores/growing_row_store.h"

#include <algorithm>
#include <string>

namespace tfps {
namespace {

// Metadata as a row of floats, in the order that growing_column.h gives.
void WriteMeta(const RowMeta& meta, float* out) {
  out[0] = static_cast<float>(meta.idle_updates);
  out[1] = meta.idle_seconds;
  out[2] = meta.score;
}

}  // namespace

Status GrowingRowStore::Check() const {
  // A table's width is part of the graph; a handle of another table must not be read as this one.
  if (columns_[0]->width() != dim_) {
    return InvalidArgument("the table must have rows of ", dim_, " floats. Received: ", columns_[0]->width(), ".");
  }
  for (const GrowingColumnPtr& column : columns_) {
    // Column numbers mean nothing in another table: it may have a column of that number with another width.
    if (&column->rows() != &rows()) return InvalidArgument("a slot must be a column of the table. Received: one of another table.");
  }
  return Status();
}

Status GrowingRowStore::CopyRows(const RowKeys& keys, const RowBuffer& out, const ParallelFor& parallel) {
  TFPS_RETURN_IF_ERROR(Check());
  // Metadata are no column of a block: they are computed from ticks and records.
  if (columns_[0]->column() != GrowingColumn::kMeta) {
    return rows().Copy(columns_[0]->column(), keys, training_, out, parallel);
  }
  if (out.storage != Storage::kFloat32) return InvalidArgument("metadata of rows are floats. Received: bfloat16 for them.");
  // Not in parallel: metadata are read by checkpoints, and not by steps.
  std::vector<RowMeta> meta(keys.count);
  rows().CopyMeta(keys, meta.data());
  for (int64_t i = 0; i < keys.count; ++i) WriteMeta(meta[i], static_cast<float*>(out.At(i * GrowingColumn::kMetaWidth)));
  return Status();
}

Status GrowingRowStore::UpdateRows(const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys,
                                   const RowGradients& gradients, const ParallelFor& parallel) {
  TFPS_RETURN_IF_ERROR(Check());
  std::vector<int> columns;
  for (const GrowingColumnPtr& column : columns_) columns.push_back(column->column());
  // Metadata say when a row was used last, which no optimizer may train.
  if (std::count(columns.begin(), columns.end(), GrowingColumn::kMeta) > 0) {
    return InvalidArgument("metadata of rows have no gradient.");
  }
  return rows().Update(columns, updater, hyperparameters, keys, gradients, parallel);
}

Result<RowChunk> GrowingRowStore::ScanRows(int64_t cursor, int64_t max_rows) const {
  TFPS_RETURN_IF_ERROR(Check());
  std::vector<int> columns;
  for (const GrowingColumnPtr& column : columns_) {
    // The core copies metadata in any case; here they must not be asked for as a column.
    if (column->column() != GrowingColumn::kMeta) columns.push_back(column->column());
  }
  auto chunk = rows().Scan(columns, cursor, max_rows);
  if (!chunk.ok()) return chunk.status();
  RowChunk out = std::move(chunk.value().rows);
  // Metadata come as one more slot, at the place where they were asked for.
  for (size_t i = 1; i < columns_.size(); ++i) {
    if (columns_[i]->column() != GrowingColumn::kMeta) continue;
    std::vector<float> values(out.keys.size() * GrowingColumn::kMetaWidth);
    for (size_t k = 0; k < out.keys.size(); ++k) WriteMeta(chunk.value().meta[k], &values[k * GrowingColumn::kMetaWidth]);
    // Slots before this one are in place already, so the index is that of the handles.
    out.slots.insert(out.slots.begin() + (i - 1), std::move(values));
  }
  return out;
}

}  // namespace tfps
