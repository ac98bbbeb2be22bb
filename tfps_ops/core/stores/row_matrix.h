// What stores with fixed rows do once they hold their locks: row i of the table is row i of a matrix, and so are its slots.
#ifndef TFPS_OPS_CORE_STORES_ROW_MATRIX_H_
#define TFPS_OPS_CORE_STORES_ROW_MATRIX_H_

#include <cstdint>
#include <vector>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/stores/row_store.h"

namespace tfps {

// One slot of every row, a matrix; nothing is owned.
struct SlotMatrix {
  void* values = nullptr;  // [rows, width]
  int64_t width = 0;
  Storage storage = Storage::kFloat32;
};

// A table and its slots; nothing is owned. A plain value, made anew for each call: the memory may move between calls.
// Threads: the functions below take no lock. Their caller holds one for as long as they run, an exclusive one for updates.
struct RowMatrix {
  void* table = nullptr;          // [rows, dim]
  SlotMatrix slots[kMaxSlots];    // the first `slot_count` of them
  int slot_count = 0;
  int64_t rows = 0;
  int64_t dim = 0;
  Storage storage = Storage::kFloat32;  // of the table
  uint64_t update = 0;            // the number of the next update of the table; only rounding at random goes by it

  // The table as a slot without a number: part 0. Part 1 + i is slot i.
  SlotMatrix part(int number) const { return number == 0 ? SlotMatrix{table, dim, storage} : slots[number - 1]; }
  // Whether all of it is floats, which an optimizer updates where they are.
  bool IsFloats() const;
};

// Whether every key is in [0, rows); the error names the first that is not. O(count). Keys come from other processes, so this
// stands before every access.
Status CheckKeys(const RowKeys& keys, int64_t rows);

// Whether the matrix has the slots that `updater` needs, in number and width.
Status CheckSlots(const RowMatrix& matrix, const RowUpdater& updater);

// The verbs of RowStore, for whoever holds the lock. Copies and scans check their arguments before they touch a row.
// Example of a scan of 5 rows with max_rows 2: the cursors 0, 2 and 4 give the rows {0, 1}, {2, 3} and {4}, and then kEnd.
Status CopyRows(const RowMatrix& matrix, const RowKeys& keys, const RowBuffer& out, const ParallelFor& parallel);
Result<RowChunk> ScanRows(const RowMatrix& matrix, int64_t cursor, int64_t max_rows);

// An update is two calls: a store checks it first, and makes its memory writable, which may be a copy, only if all is right.
Status CheckUpdate(const RowMatrix& matrix, const RowUpdater& updater, const RowKeys& keys);
void UpdateRows(const RowMatrix& matrix, const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys,
                const RowGradients& gradients, const ParallelFor& parallel);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_STORES_ROW_MATRIX_H_
