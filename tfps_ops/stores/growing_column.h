// A column of a table that grows, as a resource: what a handle of the table, or of one of its slots, refers to.
//
// The handle of the table is that of column 0. An optimizer's slot is a column of the same blocks; its handle keeps the table
// alive, and its column is dropped with the last reference to it. The metadata of rows (when they were used last, their score)
// have a handle too, so that checkpoints save them as they save a slot.
#ifndef TFPS_OPS_STORES_GROWING_COLUMN_H_
#define TFPS_OPS_STORES_GROWING_COLUMN_H_

#include <memory>
#include <string>
#include <utility>

#include "tensorflow/core/framework/resource_base.h"
#include "tfps_ops/core/growing/growing_rows.h"

namespace tfps {

// Threads: immutable; the rows have locks of their own.
class GrowingColumn : public ::tensorflow::ResourceBase {
 public:
  // The number of the pseudo-column of metadata, kMetaWidth floats a row: updates of the table since the row was touched last,
  // seconds since then, and its score.
  static constexpr int kMeta = -1;
  static constexpr int64_t kMetaWidth = 3;

  GrowingColumn(std::shared_ptr<GrowingRows> rows, int column) : rows_(std::move(rows)), column_(column) {}
  ~GrowingColumn() override {
    // Column 0 ends with the table, and kMeta (-1) is no column of a block.
    if (column_ > 0) rows_->DropColumn(column_);
  }

  GrowingRows& rows() const { return *rows_; }
  const std::shared_ptr<GrowingRows>& shared_rows() const { return rows_; }
  int column() const { return column_; }
  int64_t width() const { return column_ == kMeta ? kMetaWidth : rows_->ColumnWidth(column_); }

  std::string DebugString() const override { return "column " + std::to_string(column_) + " of a table that grows"; }

 private:
  const std::shared_ptr<GrowingRows> rows_;
  const int column_;
};

}  // namespace tfps

#endif  // TFPS_OPS_STORES_GROWING_COLUMN_H_
