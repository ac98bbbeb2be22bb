// GrowingRows in memory: 4096 segments (segment.h), each found by the upper bits of a mixed key and locked by itself.
#ifndef TFPS_OPS_CORE_GROWING_GROWING_TABLE_H_
#define TFPS_OPS_CORE_GROWING_GROWING_TABLE_H_

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "tfps_ops/core/growing/admission_filter.h"
#include "tfps_ops/core/growing/eviction_walk.h"
#include "tfps_ops/core/growing/growing_rows.h"
#include "tfps_ops/core/growing/table_parts.h"
#include "tfps_ops/core/rows/float_rows.h"

namespace tfps {

class GrowingTable final : public GrowingRows {
 public:
  // The options have been checked.
  explicit GrowingTable(const GrowingOptions& options);

  int64_t dim() const override { return parts_.options.dim; }

  Result<int> AddColumn(int64_t width, float initial, Storage storage) override;
  void DropColumn(int column) override;
  int64_t ColumnWidth(int column) const override;

  Status Copy(int column, const RowKeys& keys, bool training, const RowBuffer& out, const ParallelFor& parallel) override;
  Status Update(const std::vector<int>& columns, const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys,
                const RowGradients& gradients, const ParallelFor& parallel) override;
  Status Assign(int column, const RowKeys& keys, const float* values) override;
  void CopyMeta(const RowKeys& keys, RowMeta* meta) const override;
  void AssignMeta(const RowKeys& keys, const RowMeta* meta) override;
  Result<GrowingChunk> Scan(const std::vector<int>& columns, int64_t cursor, int64_t max_rows) const override;
  int64_t Erase(const RowKeys& keys) override;
  void Clear() override;
  void Pin(const RowKeys& keys, bool pinned) override;
  Status AddScores(const RowKeys& keys, const float* amounts) override;
  int64_t Evict(int64_t max_rows) override { return walk_.Evict(max_rows); }
  Result<KeysSince> Since(int64_t cursor) override;
  GrowthCounts Counts() const override;

 private:
  struct UpdateCall;  // growing_update.cc

  // Everything below takes words, which are made once per key and call.
  Segment& SegmentOf(uint64_t word) const { return parts_.SegmentOf(word); }

  // Columns (growing_columns.cc). A column that is live is in the layout of every segment.
  struct Column {
    int64_t width;
    float initial;
    Storage storage;
    // Slots of a dropped optimizer stay in the blocks with `live` = false, until a column of their width and storage is added.
    bool live;
  };
  // What is known of a column now; width -1 where it is not live.
  // A copy, and not a reference: columns_ may grow once the lock is given back.
  Column ColumnOf(int column) const;
  Status CheckColumn(int column) const;
  // Moves all segments to a layout.
  Status RelaySegments(const BlockLayout& layout, int reset);

  // What a key without a row reads (growing_copy.cc).
  void WriteUnstored(const Column& about, int column, int64_t key, float* out) const;
  void CopyUnstored(const Column& about, int column, int64_t key, const RowBuffer& out, int64_t element) const;
  bool AllAdmitted() const;

  // Updates (growing_update.cc).
  Status CheckUpdate(const std::vector<int>& columns, const RowUpdater& updater) const;
  void UpdateRange(UpdateCall* call, int64_t begin, int64_t end);
  Segment::Outcome UpdateKey(UpdateCall* call, FloatRows* floats, int64_t i, uint64_t word, int likely, bool admitted);
  void UpdateBlock(const UpdateCall& call, FloatRows* floats, int64_t i, const BlockLayout& layout, uint8_t* block) const;
  void RetryDeferred(UpdateCall* call, FloatRows* floats, const std::vector<int64_t>& deferred);
  // The lock of the segment is held; true makes the row. Each call counts as one update of the key.
  bool Admit(Segment* segment, uint64_t word, int64_t update_number);
  void ForgetCount(Segment* segment, uint64_t word);
  Status AssignRow(int column, uint64_t word, const float* values);

  // Scans (growing_scan.cc).
  void ScanSegment(int number, const std::vector<int>& columns, uint64_t first_word, int64_t max_rows,
                   GrowingChunk* chunk) const;
  RowMeta MetaOf(const Segment& segment, const uint8_t* block, const TickHistory& history, double now) const;

  // The first Since: ticks for all rows, and the log.
  // Not from the start: a table that nobody follows pays neither 4 bytes a row for ticks nor a log.
  Status BeginRecording();

  std::deque<BlockLayout> layouts_;  // under change_mutex_; segments point into it, so it goes after them
  mutable TableParts parts_;
  EvictionWalk walk_;
  // One for the table and not one a segment: its 256 shards are sized by `filter_keys`, of which a 4096th would be too few.
  std::unique_ptr<AdmissionFilter> filter_;  // only for kFilter

  // Two mutexes for columns: relaying a large table takes long, and readers of columns_ wait only for the change of the list.
  std::mutex change_mutex_;                      // one change of columns, and one Since, at a time
  mutable std::shared_mutex columns_mutex_;      // guards columns_
  std::vector<Column> columns_;
  // Updates of any column so far, by which rows are rounded at random.
  std::atomic<uint64_t> roundings_{0};
  std::mutex pin_mutex_;                         // one Pin at a time
  uint32_t first_cursor_ = 0;                    // under change_mutex_; the tick that the first Since ended
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_GROWING_TABLE_H_
