// Rows that appear as their keys do: a hash table of packed blocks, each with a row, its slots and what eviction needs of it.
//
// A key is any int64; none is reserved. A row's first value follows from (seed, key) alone (first_value.h), so a row that is not
// stored can be read: a lookup stores nothing, and the first update of a key makes its row, if admission allows it.
//
// Columns: column 0 is the row, of `dim` numbers, floats or bfloat16 (rows/storage.h); an optimizer adds one for each slot. All columns of a row lie in one block.
// Rows are made by updates of column 0 alone. An update of other columns (GEO adds deltas to slots by themselves) changes the
// rows that are stored and passes over the others.
//
// Ticks: time in a table is counted in ticks, and a block has the tick of the last update or training lookup of its row. A tick
// ends when somebody asks which rows were touched, and with every so many updates or seconds, as the eviction rule needs: a 64th
// of the horizon of kUnseen and kSmallNorm, the `steps` of kScore; with a budget also each 16 updates, or sooner where the rows
// touched come to an eighth of the budget. There are 2^32 ticks.
//
// Under way: a row that was touched in the present tick or the one before is never evicted, whatever the rule, so that a step
// which has looked it up finds it when its gradients come.
//
// Memory: 8 bytes a row for the key, 3.5 for the index, 4 for the tick (only with eviction, or once Since was called), 4 for a
// score (kLeastFrequent, kSmallNorm, kScore), and what is empty: under 1 with some million rows, 3 with a hundred thousand. An
// empty table has 300 kB. What rows that went have left is for rows to come; the table does not give it back to the system.
// A store has 4096 segments of at most 65,536 rows, so 268 million.
//
// Threads: any number may call any method at a time. A row is read and updated under the lock of its segment, so a copy has all
// of a row or nothing of an update. The rows of a call are not of one moment.
#ifndef TFPS_OPS_CORE_GROWING_GROWING_ROWS_H_
#define TFPS_OPS_CORE_GROWING_GROWING_ROWS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "tfps_ops/core/growing/first_value.h"
#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/core/status.h"
#include "tfps_ops/core/stores/row_store.h"

namespace tfps {

// The rule by which an update makes the row of a key that is not stored.
struct Admission {
  enum class Kind {
    kAlways,
    kCount,        // at the n-th update of the key; counts are exact
    kFilter,       // the same, counted in a filter of bounded memory: 16 bits a key (12 of its hash and 4 of its count), so
                   // that about 1 key in 80 shares the count of another and may be admitted early. A key that is evicted and
                   // soon comes back is admitted at once: the filter still knows it
    kProbability,  // at each update with probability p
  };
  Kind kind = Kind::kAlways;
  int64_t n = 1;               // kCount: at least 1; kFilter: 1 to 15
  int64_t filter_keys = 0;     // kFilter: keys that are counted at a time; the oldest half is forgotten beyond. 3 bytes each
  double p = 1;                // kProbability: above 0, at most 1
  // What a key that is not stored reads: its first value, or (false) the mean of first values. Where the next update is sure to
  // make the row (kAlways, n = 1, p = 1) it is the first value in any case.
  bool reads_first_value = false;
};

// Which rows go. Budgets hold whatever the kind; with kNone a key beyond the budget is not admitted, and counted as refused. At a
// budget kUnseen and kSmallNorm take the rows touched longest ago, too, and kScore those with the lowest scores. "Longest ago",
// "fewest" and "lowest" are the last sixteenth of the table by a sample, not the very last row. Where all rows are under way, new
// keys are refused.
// A rule is checked as a hand comes by that walks over the table: at each update so far that it comes round 8 times in `steps`
// updates or `seconds` (4 times while the table shrinks). So a row goes up to a quarter of the horizon late, and never early.
struct Eviction {
  enum class Kind {
    kNone,
    kUnseen,         // rows not touched for `steps` updates of the table, or for `seconds`, where they are above 0
    kLeastRecent,    // at the budget, the rows touched longest ago
    kLeastFrequent,  // at the budget, the rows with the fewest updates
    kSmallNorm,      // rows whose L2 norm is below `threshold`, once they were made `steps` updates ago
    kScore,          // rows whose score is below `threshold`: an update adds `gain`, and each `steps` updates of the table multiply
                     // all scores by `decay`
  };
  Kind kind = Kind::kNone;
  int64_t steps = 0;
  double seconds = 0;
  double threshold = 0;
  double decay = 1;
  double gain = 1;
  int64_t max_rows = 0;   // of this store; 0: no limit
  int64_t max_bytes = 0;  // of this store, all memory of the table counted; 0: no limit. A new column may exceed it, and
                          // updates then evict; counts of kCount are forgotten where they would exceed it
};

struct GrowingOptions {
  int64_t dim = 1;
  Storage storage = Storage::kFloat32;  // of rows; a slot has its own
  FirstValue first;
  Admission admission;
  Eviction eviction;
  uint64_t hash_seed = 0;  // secret of the process, so that nobody can make keys that collide
  std::function<double()> now;  // seconds, rising; a steady clock if empty
};

// What the table has done since it was made, for users to see. Sums over all updates; never reset.
struct GrowthCounts {
  int64_t rows = 0;           // stored now
  int64_t bytes = 0;          // all memory of the table now, filters and logs included
  int64_t admitted = 0;       // rows made by updates
  int64_t refused = 0;        // gradients dropped because their key was not admitted
  int64_t over_budget = 0;    // of these, because the budget was full and no row could go
  int64_t evicted = 0;
  int64_t updates = 0;        // Update calls of column 0
  double load = 0;            // entries of the index in use, 0 to 1
  double probes = 0;          // mean number of index buckets that a stored key is away from its first, at least 1
};

// What a block has beside its floats, for saving. Ages are never more than they are, and right to a tick or 1 part in 16. Scores
// are counts for kLeastFrequent, updates since the row was made for kSmallNorm, and 0 where the eviction keeps none.
struct RowMeta {
  int64_t idle_updates = 0;  // updates of the table since the row was touched last
  float idle_seconds = 0;
  float score = 0;
};

struct GrowingChunk {
  RowChunk rows;              // keys, rows and the columns that were asked for
  std::vector<RowMeta> meta;  // [n]
};

// Keys touched or gone since a cursor.
struct KeysSince {
  std::vector<int64_t> touched;  // stored now, each once, in no order
  std::vector<int64_t> evicted;  // not stored now, each once
  int64_t cursor = 0;            // what to ask with next time
  bool complete = true;          // false: keys evicted after the asked cursor have been forgotten, so ask for all rows instead
};

class GrowingRows {
 public:
  virtual ~GrowingRows() = default;

  virtual int64_t dim() const = 0;

  // Adds a column of `width` floats (dim or 1, say) whose first value is `initial` in every element, to all rows; returns its
  // number, 1 at least. A column that was dropped before and has this width and storage is used again. Rows of a table that is
  // not empty are copied segment by segment.
  virtual Result<int> AddColumn(int64_t width, float initial, Storage storage) = 0;
  // A column of floats.
  Result<int> AddColumn(int64_t width, float initial) { return AddColumn(width, initial, Storage::kFloat32); }
  virtual void DropColumn(int column) = 0;
  virtual int64_t ColumnWidth(int column) const = 0;  // -1 for a column that is not there

  // Copies one column of the rows of `keys`, in any order and as often as they come, to `out`, [count, its width]. A key that is
  // not stored reads its first value or the mean, as admission says; in another column the initial value.
  // `training`: whether a step will update these rows: they count as touched, so that eviction leaves them alone.
  virtual Status Copy(int column, const RowKeys& keys, bool training, const RowBuffer& out, const ParallelFor& parallel) = 0;

  // Updates column `columns[0]` by `updater`, with its slots in columns[1..]. Keys come each at most once.
  // ResourceExhausted where a segment has all the rows it can have; the other keys have their gradients then.
  virtual Status Update(const std::vector<int>& columns, const RowUpdater& updater, const float* hyperparameters,
                        const RowKeys& keys, const RowGradients& gradients, const ParallelFor& parallel) = 0;

  // Overwrites one column of the rows of `keys`, and makes rows that are not stored (other columns at their initial values),
  // whatever admission and budgets say: the updates that follow evict what is beyond a budget. ResourceExhausted where a segment
  // has all the rows that it can have.
  virtual Status Assign(int column, const RowKeys& keys, const float* values) = 0;
  // Copies the metadata of rows to meta, [count]; zeros for rows that are not stored.
  virtual void CopyMeta(const RowKeys& keys, RowMeta* meta) const = 0;
  // Overwrites the metadata of stored rows: of the two ages the one that the eviction goes by (seconds for kUnseen without steps,
  // else updates). Ages stay as they are once Since was called, as a reader would not hear of the row: restore before.
  virtual void AssignMeta(const RowKeys& keys, const RowMeta* meta) = 0;

  // Copies out the next rows as RowStore::ScanRows does, with `columns[0]` as the rows and the others as slots. Cursors are not
  // negative but for kEnd. A chunk holds the lock of one segment at a time, and looks through it: ask for thousands of rows.
  virtual Result<GrowingChunk> Scan(const std::vector<int>& columns, int64_t cursor, int64_t max_rows) const = 0;

  // Removes rows; keys that are not stored are passed over. Returns how many went. They are not counted as evicted, but are in
  // `evicted` of Since.
  virtual int64_t Erase(const RowKeys& keys) = 0;
  virtual void Clear() = 0;  // all rows, and counts of admission; columns stay. Readers of Since are told to ask for all rows

  // Pinned keys are never evicted; stored or not.
  virtual void Pin(const RowKeys& keys, bool pinned) = 0;
  // Adds to the scores of stored rows (clicks, say). InvalidArgument unless the eviction is kScore.
  virtual Status AddScores(const RowKeys& keys, const float* amounts) = 0;
  // Evicts what the rule says in the next `max_rows` rows of a walk over the table; returns how many went. Updates do so
  // themselves in slices, so this is for tables at rest.
  virtual int64_t Evict(int64_t max_rows) = 0;

  // The first call begins to record, and must be with kNow. `cursor`: kNow to start at this moment, or the cursor of an earlier
  // call; InvalidArgument for another. A touch or an eviction is told by the first call that begins after it, and may be told
  // again by the next. `touched` has rows of training lookups, too; `evicted` also keys whose row was made after the cursor.
  // Keys that went are kept for the last 1,000,000, or as many as there are rows (less with a budget of bytes, of which they
  // take an eighth).
  static constexpr int64_t kNow = -1;
  virtual Result<KeysSince> Since(int64_t cursor) = 0;

  virtual GrowthCounts Counts() const = 0;
};

// InvalidArgument where an option breaks its rule.
Result<std::shared_ptr<GrowingRows>> MakeGrowingRows(const GrowingOptions& options);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_GROWING_ROWS_H_
