// Which rows of a store were updated since some moment: for exports and checkpoints of what has changed.
//
// Updates are numbered from 1. For each row the number of the last update that touched it is kept; a cursor is the number of
// the last update that its owner knows of. Any number of readers keep cursors of their own. Example:
//   update 1 touches the rows {5, 2}, update 2 the rows {2, 9}
//   Since(0) -> rows {2, 5, 9}, cursor 2        all that were ever touched
//   Since(1) -> rows {2, 9}, cursor 2           row 5 was last touched by update 1
//   Since(2) -> rows {}, cursor 2
#ifndef TFPS_OPS_CORE_STORES_TOUCHED_ROWS_H_
#define TFPS_OPS_CORE_STORES_TOUCHED_ROWS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "tfps_ops/core/status.h"
#include "tfps_ops/core/stores/row_observer.h"

namespace tfps {

// The answer to a reader.
struct RowsSince {
  std::vector<int64_t> rows;  // ascending, each once
  int64_t cursor = 0;         // what to ask with next time
};

// For stores whose rows are numbered from 0, as those of a matrix are. A store of arbitrary keys would keep the number of the
// last update in each row instead.
// Threads: any number may update and read at once; one mutex guards all state and is held for the length of a call.
// Memory: 8 bytes for each row of a page of kPageRows rows that had an update, 8 bytes for each page up to the last one.
class TouchedRows : public RowObserver {
 public:
  // Cost: O(count), one write to memory a row.
  void OnUpdate(const int64_t* rows, int64_t count) override;

  // The rows touched by updates after number `cursor`. An update is counted whole or not at all. `cursor` must be 0 or
  // come from an earlier call; an InvalidArgument error where it is negative or lies ahead, as one of another watch may.
  // Cost: O(pages + rows of the pages touched since the cursor).
  Result<RowsSince> Since(int64_t cursor) const;

 private:
  // A page is 8 KB, two pages of memory: small enough that a few hot rows do not cost much, large enough that a table of
  // 100 million rows has a list of only 100,000 pages to look through.
  static constexpr int64_t kPageRows = 1024;

  struct Page {
    int64_t newest = 0;                            // the largest of `updates`
    std::array<int64_t, kPageRows> updates = {};   // the last update of each row; 0: none
  };

  mutable std::mutex mutex_;                    // guards what follows
  int64_t update_ = 0;                          // number of the last update
  std::vector<std::unique_ptr<Page>> pages_;    // null where no row had an update
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_STORES_TOUCHED_ROWS_H_
