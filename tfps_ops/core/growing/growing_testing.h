// What the tests of growing tables share.
#ifndef TFPS_OPS_CORE_GROWING_GROWING_TESTING_H_
#define TFPS_OPS_CORE_GROWING_GROWING_TESTING_H_

#include <algorithm>
#include <memory>
#include <vector>

#include "tfps_ops/core/growing/growing_rows.h"
#include "tfps_ops/core/testing.h"

namespace tfps {

using Keys = std::vector<int64_t>;

inline RowKeys Of(const Keys& keys) { return {keys.data(), static_cast<int64_t>(keys.size())}; }

// Rows that begin as zeros, so that what is added to them can be told.
inline GrowingOptions Zeros(int64_t dim) {
  GrowingOptions options;
  options.dim = dim;
  // Fixed, so that a failure repeats: the same keys meet in the same segments.
  options.hash_seed = 0x1234567;
  return options;
}

inline GrowingOptions WithEviction(int64_t dim, Eviction::Kind kind) {
  GrowingOptions options = Zeros(dim);
  options.eviction.kind = kind;
  return options;
}

// Adds `amount` to every element of the rows of `keys`, by gradient descent.
inline Status Add(GrowingRows* rows, const Keys& keys, float amount) {
  static const std::unique_ptr<RowUpdater> sgd = ValueOf(MakeRowUpdater("sgd"));
  // A learning rate of -1 adds the gradient.
  const float hyper[] = {-1, 0};
  const std::vector<float> gradients(keys.size() * rows->dim(), amount);
  return rows->Update({0}, *sgd, hyper, Of(keys), gradients.data(), InCallersThread);
}

inline std::vector<float> Read(GrowingRows& rows, int column, const Keys& keys) {
  std::vector<float> out(keys.size() * rows.ColumnWidth(column));
  TFPS_CHECK(rows.Copy(column, Of(keys), false, out.data(), InCallersThread).ok());
  return out;
}

// The keys that are stored, ascending; each comes once.
inline Keys StoredKeys(const GrowingRows& rows) {
  Keys keys;
  for (int64_t cursor = 0; cursor != RowStore::kEnd;) {
    const GrowingChunk chunk = ValueOf(rows.Scan({0}, cursor, 1000));
    keys.insert(keys.end(), chunk.rows.keys.begin(), chunk.rows.keys.end());
    cursor = chunk.rows.cursor;
  }
  std::sort(keys.begin(), keys.end());
  // A scan that gives a key twice fails here, whatever the test looks for.
  TFPS_CHECK(std::adjacent_find(keys.begin(), keys.end()) == keys.end());
  return keys;
}

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_GROWING_TESTING_H_
