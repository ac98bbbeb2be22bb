// The seam between the kernels and the rows of a table: kernels unpack messages and call a RowStore, and know nothing of how
// rows are kept. A new way to keep them (a hash table, rows on disk) is a new subclass and a case in stores/open_row_store.cc.
//
// A store holds one piece of a table, a shard on a server: rows of `dim` floats under int64 keys, and for each row as many
// slots as the table's optimizer has, which belong to the row: they are found, updated and read together with it.
//
// Storage: rows and slots are floats to all callers. A store may keep them as bfloat16 (rows/storage.h); an update then computes in
// floats and rounds at random.
//
// Find or insert: a store with fixed rows has a row for each key in [0, rows) and refuses any other. A store that grows makes
// the row of a key that it has not seen, with its first value, before it copies or updates it. So kernels ask for rows
// without knowing which of the two they have.
//
// Threads: any number of threads may call any method at a time.
//   - An update holds the rows that it changes, with their slots, exclusively from the first check to the last write.
//     Concurrent updates of a row follow one another, and none is lost.
//   - A copy or a scan never sees a row of which half is updated. A scan sees a row and its slots at one moment.
//   - Whether the rows of one call are of one moment is up to the store: those of VariableRowStore are.
// Errors: a call that is refused has changed no row.
// Ownership: a store owns its rows or keeps what owns them alive; arguments are valid during the call only.
#ifndef TFPS_OPS_CORE_STORES_ROW_STORE_H_
#define TFPS_OPS_CORE_STORES_ROW_STORE_H_

#include <cstdint>
#include <vector>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/core/rows/storage.h"
#include "tfps_ops/core/status.h"

namespace tfps {

// The rows that a caller means; nothing is owned.
struct RowKeys {
  const int64_t* keys = nullptr;  // [count]
  int64_t count = 0;
};

// The gradients of these rows; nothing is owned.
struct RowGradients {
  // One gradient a row, and no more known of it.
  RowGradients(const float* sums) : sums(sums) {}  // NOLINT: most callers have no more than this
  RowGradients(const float* sums, const float* const* measures) : sums(sums), measures(measures) {}

  const float* sums = nullptr;             // [count, dim]
  const float* const* measures = nullptr;  // [count], or null; as RowBlock::measures
};

// A part of a store, copied out, so that no lock is held while it is sent or written to a disk.
struct RowChunk {
  std::vector<int64_t> keys;              // [n]
  std::vector<float> rows;                // [n, dim]
  std::vector<std::vector<float>> slots;  // of each slot [n, its width]
  int64_t cursor = 0;                     // where the next chunk begins; RowStore::kEnd after the last one
};

class RowStore {
 public:
  // The cursor after the last row.
  static constexpr int64_t kEnd = -1;

  virtual ~RowStore() = default;

  // Finds or inserts the rows of `keys`, in any order and as often as they come, and copies them to `out`, [count, dim], as
  // floats or as bfloat16. A store that has floats rounds them to the nearest bfloat16.
  // Cost: one fetch from memory a row, several under way at a time.
  virtual Status CopyRows(const RowKeys& keys, const RowBuffer& out, const ParallelFor& parallel) = 0;

  // Finds or inserts the rows of `keys`, each at most once, and updates them and their slots by `updater`.
  // `hyperparameters` are those of the updater, [updater.hyperparameters()]; `gradients` are those of the keys, in their order.
  // An InvalidArgument error also where the slots are not as many, or not as wide, as the updater says.
  // Cost: one fetch from memory a row and slot, and O(count * dim) arithmetic.
  virtual Status UpdateRows(const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys,
                            const RowGradients& gradients, const ParallelFor& parallel) = 0;

  // Copies out the next rows, at most `max_rows` (at least 1), from `cursor` on: 0 for the first chunk, then the cursor of the
  // chunk before.
  // Over a whole scan each row that is there from its beginning to its end comes exactly once; one that is inserted or
  // removed meanwhile may come or not. Updates go on between chunks. Cost: O(rows of the chunk); memory for one chunk.
  virtual Result<RowChunk> ScanRows(int64_t cursor, int64_t max_rows) const = 0;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_STORES_ROW_STORE_H_
