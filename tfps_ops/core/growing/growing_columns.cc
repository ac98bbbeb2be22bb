// The columns of a table, and its counts.
#include <algorithm>

#include "tfps_ops/core/growing/growing_table.h"

namespace tfps {
namespace {

// Tick and score before the columns: eviction reads them and the word, mostly in one cache line.
BlockLayout FirstLayout(const GrowingOptions& options) {
  BlockLayout layout;
  // Without eviction a block has neither: word and floats alone.
  const Eviction::Kind kind = options.eviction.kind;
  if (kind != Eviction::Kind::kNone) layout.AddTick();
  // kSmallNorm stores the tick in which the row was made in the place of the score.
  const bool scored = kind == Eviction::Kind::kLeastFrequent || kind == Eviction::Kind::kScore ||
                      kind == Eviction::Kind::kSmallNorm;
  if (scored) layout.AddScore();
  // Column 0 begins with WriteFirstValue, and not with this 0.
  layout.AddColumn(options.dim, 0, options.storage);
  return layout;
}

}  // namespace

GrowingTable::GrowingTable(const GrowingOptions& options) : parts_(options), walk_(&parts_) {
  layouts_.push_back(FirstLayout(options));
  // For HasRoom, which asks without a lock how large a new row is.
  parts_.block_bytes = layouts_.back().bytes;
  for (int s = 0; s < Segment::kSegments; ++s) parts_.segments[s].layout = &layouts_.back();
  // No lock: nobody else has the table yet.
  columns_.push_back({options.dim, 0, options.storage, true});
  if (options.admission.kind == Admission::Kind::kFilter) {
    filter_ = std::make_unique<AdmissionFilter>(options.admission.filter_keys, &parts_.memory);
    parts_.memory.Take(static_cast<int64_t>(sizeof(AdmissionFilter)));
  }
}

GrowingTable::Column GrowingTable::ColumnOf(int column) const {
  const std::shared_lock<std::shared_mutex> lock(columns_mutex_);
  // Any int is safe to ask for: handles come from graphs.
  const bool live = column >= 0 && column < static_cast<int>(columns_.size()) && columns_[column].live;
  return live ? columns_[column] : Column{-1, 0, Storage::kFloat32, false};
}

int64_t GrowingTable::ColumnWidth(int column) const { return ColumnOf(column).width; }

Status GrowingTable::CheckColumn(int column) const {
  // The lock is given back here. A column that is dropped later in the call keeps its memory, so the call stays valid.
  if (ColumnOf(column).live) return Status();
  return InvalidArgument("`column` must be 0 or come from AddColumn, and not be dropped. Received: ", column, ".");
}

Status GrowingTable::RelaySegments(const BlockLayout& layout, int reset) {
  // A deque does not move its elements, to which segments point; layouts stay for the life of the table.
  layouts_.push_back(layout);
  parts_.block_bytes = layout.bytes;
  for (int s = 0; s < Segment::kSegments; ++s) {
    Segment& segment = parts_.segments[s];
    // One segment at a time: lookups and updates in the others go on.
    const std::lock_guard<SpinLock> lock(segment.lock());
    // Segments that have gone before stay there: a layout with more columns than are live is valid.
    if (!segment.Relay(&layouts_.back(), reset, &parts_.memory)) {
      return ResourceExhausted("no memory for blocks of ", layout.bytes, " bytes in place of ", segment.layout->bytes, ".");
    }
  }
  return Status();
}

Result<int> GrowingTable::AddColumn(int64_t width, float initial, Storage storage) {
  // Before the lock and before anything is copied.
  if (width < 1) return InvalidArgument("`width` must be at least 1. Received: ", width, ".");
  const std::lock_guard<std::mutex> change(change_mutex_);
  // Read without columns_mutex_: only holders of change_mutex_ write columns_.
  const auto dropped = std::find_if(columns_.begin(), columns_.end(),
                                    [&](const Column& c) { return !c.live && c.width == width && c.storage == storage; });
  const int column = static_cast<int>(dropped - columns_.begin());
  const bool reused = dropped != columns_.end();
  // A copy of the newest layout: numbers and order of the columns in it must stay, as optimizers hold them.
  BlockLayout layout = layouts_.back();
  // The layout may have columns of an earlier call that ran out of memory; they are never live.
  if (reused) layout.columns[column].initial = initial;
  else layout.AddColumn(width, initial, storage);
  // The column is live only once every segment has it, so an update that names it finds it everywhere.
  const Status relayed = RelaySegments(layout, reused ? column : Segment::kNone);
  if (!relayed.ok()) {
    // The column stays in the layout, of some segments at least. So it has its number here, and waits for a call to use it.
    const std::unique_lock<std::shared_mutex> lock(columns_mutex_);
    if (!reused) columns_.push_back({width, initial, storage, false});
    return relayed;
  }
  const std::unique_lock<std::shared_mutex> lock(columns_mutex_);
  // A second lock for this line only: readers wait for a moment, and not for the copy of all rows.
  if (reused) columns_[column] = {width, initial, storage, true};
  else columns_.push_back({width, initial, storage, true});
  return column;
}

void GrowingTable::DropColumn(int column) {
  const std::lock_guard<std::mutex> change(change_mutex_);
  const std::unique_lock<std::shared_mutex> lock(columns_mutex_);
  // The memory stays, for the next column of this width: an optimizer that is replaced has the same slots, most likely.
  // Never column 0: it is the rows.
  if (column > 0 && column < static_cast<int>(columns_.size())) columns_[column].live = false;
}

GrowthCounts GrowingTable::Counts() const {
  GrowthCounts counts;
  counts.rows = parts_.rows.load(std::memory_order_relaxed);
  // Each number is of its own moment; together they may disagree by the updates under way.
  counts.bytes = parts_.memory.bytes();
  counts.admitted = parts_.admitted.load(std::memory_order_relaxed);
  counts.refused = parts_.refused.load(std::memory_order_relaxed);
  counts.over_budget = parts_.over_budget.load(std::memory_order_relaxed);
  counts.evicted = parts_.evicted.load(std::memory_order_relaxed);
  counts.updates = parts_.clock.updates();
  // By segment, as load and probes must be of rows and buckets of one moment; `rows` is a count that may be a few ahead.
  int64_t stored = 0, entries = 0, displacement = 0;
  for (int s = 0; s < Segment::kSegments; ++s) {
    const Segment& segment = parts_.segments[s];
    const std::lock_guard<SpinLock> lock(segment.lock());
    stored += segment.count();
    entries += segment.buckets() * IndexBucket::kEntries;
    displacement += segment.displacement();
  }
  counts.load = entries == 0 ? 0 : static_cast<double>(stored) / static_cast<double>(entries);
  counts.probes = stored == 0 ? 1 : 1 + static_cast<double>(displacement) / static_cast<double>(stored);
  return counts;
}

}  // namespace tfps
