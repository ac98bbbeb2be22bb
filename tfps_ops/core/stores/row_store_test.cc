// What every RowStore must do, run on each kind there is: one with fixed rows, and one that grows, which lives in this file
// and shows what a new kind takes.
#include "tfps_ops/core/stores/row_store.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "tfps_ops/core/rows/row_conversion.h"
#include "tfps_ops/core/stores/matrix_row_store.h"
#include "tfps_ops/core/stores/touched_rows.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

constexpr int64_t kRows = 40;

// The first value of an element, the same in every store.
float FirstValue(int64_t key, int64_t column) { return static_cast<float>(key % 1000 * 100 + column); }

// A store that grows: any key has a row from the first time that it is asked for. Rows and slots lie in maps, one by one.
class MapRowStore : public RowStore {
 public:
  MapRowStore(int64_t dim, std::vector<int64_t> slot_widths) : dim_(dim), slot_widths_(std::move(slot_widths)) {}

  Status CopyRows(const RowKeys& keys, const RowBuffer& out, const ParallelFor&) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (int64_t i = 0; i < keys.count; ++i) {
      const std::vector<float>& row = FindOrInsert(keys.keys[i])[0];
      CopyRow(row.data(), Storage::kFloat32, dim_, out, i * dim_);
    }
    return Status();
  }

  Status UpdateRows(const RowUpdater& updater, const float* hyperparameters, const RowKeys& keys, const RowGradients& gradients,
                    const ParallelFor& parallel) override {
    if (updater.slots() != static_cast<int>(slot_widths_.size())) {
      return InvalidArgument("the optimizer needs ", updater.slots(), " slots. Received: ", slot_widths_.size(), ".");
    }
    for (int i = 0; i < updater.slots(); ++i) {
      if (updater.SlotWidth(i, dim_) != slot_widths_[i]) {
        return InvalidArgument("slot ", i, " must have ", updater.SlotWidth(i, dim_), " columns. Received: ",
                               slot_widths_[i], " columns.");
      }
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t first_row = 0;
    for (int64_t i = 0; i < keys.count; ++i) {
      std::vector<std::vector<float>>& parts = FindOrInsert(keys.keys[i]);
      RowBlock block;
      block.table = parts[0].data();
      for (int s = 0; s < updater.slots(); ++s) block.slots[s] = parts[1 + s].data();
      block.rows = &first_row;
      block.gradients = gradients.sums + i * dim_;
      block.measures = gradients.measures == nullptr ? nullptr : gradients.measures + i;
      block.count = 1;
      block.dim = dim_;
      updater.Apply(hyperparameters, block, parallel);
    }
    return Status();
  }

  // Chunks are in the order of the keys, and a cursor is the number of keys before: rows that are inserted during a scan may
  // move it, so a row may come twice or not, as only the conformance of stores with settled rows is tested here.
  Result<RowChunk> ScanRows(int64_t cursor, int64_t max_rows) const override {
    if (max_rows < 1) return InvalidArgument("`max_rows` must be at least 1. Received: ", max_rows, ".");
    const std::lock_guard<std::mutex> lock(mutex_);
    if (cursor < 0 || cursor > static_cast<int64_t>(rows_.size())) {
      return InvalidArgument("`cursor` must be 0 or of an earlier chunk. Received: ", cursor, ".");
    }
    RowChunk chunk;
    chunk.slots.resize(slot_widths_.size());
    auto at = std::next(rows_.begin(), cursor);
    for (; at != rows_.end() && static_cast<int64_t>(chunk.keys.size()) < max_rows; ++at) {
      chunk.keys.push_back(at->first);
      chunk.rows.insert(chunk.rows.end(), at->second[0].begin(), at->second[0].end());
      for (size_t s = 0; s < slot_widths_.size(); ++s) {
        chunk.slots[s].insert(chunk.slots[s].end(), at->second[1 + s].begin(), at->second[1 + s].end());
      }
    }
    chunk.cursor = at == rows_.end() ? kEnd : cursor + static_cast<int64_t>(chunk.keys.size());
    return chunk;
  }

 private:
  // The row of a key and its slots. The lock is held.
  std::vector<std::vector<float>>& FindOrInsert(int64_t key) {
    std::vector<std::vector<float>>& parts = rows_[key];
    if (parts.empty()) {
      parts.emplace_back();
      for (int64_t j = 0; j < dim_; ++j) parts[0].push_back(FirstValue(key, j));
      for (int64_t width : slot_widths_) parts.emplace_back(width);
    }
    return parts;
  }

  const int64_t dim_;
  const std::vector<int64_t> slot_widths_;
  mutable std::mutex mutex_;                                // guards rows_
  std::map<int64_t, std::vector<std::vector<float>>> rows_;  // key -> the row, then its slots
};

std::vector<float> FirstValues(int64_t dim) {
  std::vector<float> table;
  for (int64_t i = 0; i < kRows * dim; ++i) table.push_back(FirstValue(i / dim, i % dim));
  return table;
}

using MakeStore = std::function<std::unique_ptr<RowStore>(int64_t dim, const std::vector<int64_t>& slot_widths)>;

std::unique_ptr<RowStore> MakeMatrixStore(int64_t dim, const std::vector<int64_t>& slot_widths) {
  return std::make_unique<MatrixRowStore>(FirstValues(dim), dim, slot_widths);
}

std::unique_ptr<RowStore> MakeMapStore(int64_t dim, const std::vector<int64_t>& slot_widths) {
  return std::make_unique<MapRowStore>(dim, slot_widths);
}

// Runs `check` on each kind of store.
void ForEachStore(const std::function<void(const MakeStore&)>& check) {
  check(MakeMatrixStore);
  check(MakeMapStore);
}

using Keys = std::vector<int64_t>;

RowKeys KeysOf(const Keys& keys) { return {keys.data(), static_cast<int64_t>(keys.size())}; }

std::vector<float> Copied(RowStore* store, const Keys& keys, int64_t dim) {
  std::vector<float> out(keys.size() * dim, NAN);
  TFPS_CHECK(store->CopyRows(KeysOf(keys), out.data(), InCallersThread).ok());
  return out;
}

// Everything in a store: key -> its row and then its slots, one after the other.
std::map<int64_t, std::vector<float>> Scanned(const RowStore& store, int64_t dim, int64_t chunk_rows) {
  std::map<int64_t, std::vector<float>> all;
  int64_t cursor = 0;
  while (cursor != RowStore::kEnd) {
    const auto chunk = store.ScanRows(cursor, chunk_rows);
    TFPS_CHECK(chunk.ok());
    const RowChunk& rows = chunk.value();
    const int64_t n = static_cast<int64_t>(rows.keys.size());
    TFPS_CHECK(n <= chunk_rows && static_cast<int64_t>(rows.rows.size()) == n * dim);
    for (int64_t i = 0; i < n; ++i) {
      std::vector<float>& parts = all[rows.keys[i]];
      TFPS_CHECK(parts.empty());  // each key comes once
      parts.assign(rows.rows.begin() + i * dim, rows.rows.begin() + (i + 1) * dim);
      for (const std::vector<float>& slot : rows.slots) {
        const int64_t width = static_cast<int64_t>(slot.size()) / n;
        parts.insert(parts.end(), slot.begin() + i * width, slot.begin() + (i + 1) * width);
      }
    }
    cursor = rows.cursor;
  }
  return all;
}

const std::vector<float> kSgd = {1.0f, 0.0f}, kAdagrad = {0.5f, 1e-3f, 0.0f}, kAdam = {0.1f, 0.9f, 0.99f, 1e-3f, 1.0f, 0.0f};

TFPS_TEST(RowsAreCopiedInTheOrderAskedFor) {
  ForEachStore([](const MakeStore& make) {
    for (int64_t dim : {1, 3, 16, 33}) {
      const auto store = make(dim, {});
      const Keys keys = {7, 0, 39, 7};
      const std::vector<float> rows = Copied(store.get(), keys, dim);
      for (size_t i = 0; i < rows.size(); ++i) TFPS_CHECK(rows[i] == FirstValue(keys[i / dim], i % dim));
      TFPS_CHECK(Copied(store.get(), {}, dim).empty());
    }
  });
}

TFPS_TEST(UpdatesChangeTheirRowsAndSlotsAlone) {
  ForEachStore([](const MakeStore& make) {
    const int64_t dim = 5;
    const auto store = make(dim, {dim});
    Keys all(kRows);
    for (int64_t i = 0; i < kRows; ++i) all[i] = i;
    Copied(store.get(), all, dim);  // so that a store that grows has all rows
    const auto before = Scanned(*store, dim, 7);
    const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
    const Keys keys = {9, 3};
    const std::vector<float> gradients(keys.size() * dim, 2.0f);
    TFPS_CHECK(store->UpdateRows(*adagrad, kAdagrad.data(), KeysOf(keys), gradients.data(), InCallersThread).ok());
    const auto after = Scanned(*store, dim, 7);
    for (const auto& [key, parts] : after) {
      const bool updated = key == 9 || key == 3;
      TFPS_CHECK((parts != before.at(key)) == updated);
      // a = 0 + 2 * 2, and w moves by 0.5 * 2 / sqrt(4.001)
      for (int64_t j = 0; updated && j < dim; ++j) {
        TFPS_CHECK(parts[dim + j] == 4.0f);
        TFPS_CHECK(std::fabs(FirstValue(key, j) - parts[j] - 0.5) < 1e-3);
      }
    }
  });
}

TFPS_TEST(EveryKindOfStoreTrainsToTheSameRows) {
  struct Case {
    const char* rule;
    std::vector<float> hyper;
    int slots;
  };
  for (const Case& c : {Case{"sgd", kSgd, 0}, Case{"adagrad", kAdagrad, 1}, Case{"adam", kAdam, 2}}) {
    for (int64_t dim : {1, 4, 17}) {
      const auto updater = ValueOf(MakeRowUpdater(c.rule));
      const std::vector<int64_t> widths(c.slots, dim);
      const auto matrix = MakeMatrixStore(dim, widths), map = MakeMapStore(dim, widths);
      Random random(dim);
      for (int step = 0; step < 20; ++step) {
        // Different keys in any order.
        Keys keys(kRows);
        for (int64_t i = 0; i < kRows; ++i) keys[i] = i;
        for (int64_t i = kRows - 1; i > 0; --i) std::swap(keys[i], keys[random.Integer(0, i)]);
        keys.resize(random.Integer(0, 12));
        const std::vector<float> gradients = random.Floats(keys.size() * dim);
        for (RowStore* store : {matrix.get(), map.get()}) {
          TFPS_CHECK(store->UpdateRows(*updater, c.hyper.data(), KeysOf(keys), gradients.data(), InThreads).ok());
        }
      }
      const auto rows = Scanned(*matrix, dim, 1000);
      for (const auto& [key, parts] : Scanned(*map, dim, 3)) TFPS_CHECK(rows.at(key) == parts);
    }
  }
}

TFPS_TEST(AScanInChunksOfAnySizeHasEachRowOnce) {
  ForEachStore([](const MakeStore& make) {
    const auto store = make(3, {3, 3});
    Keys all(kRows);
    for (int64_t i = 0; i < kRows; ++i) all[i] = i;
    Copied(store.get(), all, 3);
    const auto expected = Scanned(*store, 3, kRows);
    TFPS_CHECK(static_cast<int64_t>(expected.size()) == kRows);
    for (int64_t chunk_rows : {int64_t{1}, int64_t{2}, int64_t{7}, kRows - 1, kRows + 1, INT64_MAX}) {
      TFPS_CHECK(Scanned(*store, 3, chunk_rows) == expected);
    }
  });
}

TFPS_TEST(AWrongScanIsRefused) {
  ForEachStore([](const MakeStore& make) {
    const auto store = make(2, {});
    for (int64_t cursor : {int64_t{-1}, INT64_MIN, kRows + 1, INT64_MAX}) {
      TFPS_CHECK(store->ScanRows(cursor, 5).status().code() == StatusCode::kInvalidArgument);
    }
    for (int64_t max_rows : {int64_t{0}, int64_t{-1}, INT64_MIN}) {
      TFPS_CHECK(store->ScanRows(0, max_rows).status().message().find("Received: " + std::to_string(max_rows)) !=
                 std::string::npos);
    }
  });
}

TFPS_TEST(AnEmptyStoreIsScannedInOneEmptyChunk) {
  const MatrixRowStore fixed({}, 4, {4});
  const MapRowStore growing(4, {4});
  for (const RowStore* store : {static_cast<const RowStore*>(&fixed), static_cast<const RowStore*>(&growing)}) {
    const auto chunk = store->ScanRows(0, 10);
    TFPS_CHECK(chunk.ok() && chunk.value().keys.empty() && chunk.value().rows.empty());
    TFPS_CHECK(chunk.value().cursor == RowStore::kEnd && chunk.value().slots.size() == 1);
  }
}

TFPS_TEST(TheSlotsOfAnotherOptimizerAreRefused) {
  ForEachStore([](const MakeStore& make) {
    const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
    const std::vector<float> gradients(3, 1.0f);
    const auto update = [&](const std::vector<int64_t>& widths) {
      const auto store = make(3, widths);
      const auto before = Copied(store.get(), {1}, 3);
      const Status status = store->UpdateRows(*adagrad, kAdagrad.data(), KeysOf({1}), gradients.data(), InCallersThread);
      if (!status.ok()) TFPS_CHECK(Copied(store.get(), {1}, 3) == before);  // a refused call changes nothing
      return status;
    };
    TFPS_CHECK(update({3}).ok());
    TFPS_CHECK(update({}).message() == "the optimizer needs 1 slots. Received: 0.");
    TFPS_CHECK(update({3, 3}).message() == "the optimizer needs 1 slots. Received: 2.");
    TFPS_CHECK(update({1}).message().find("slot 0 must have 3 columns") == 0);
  });
}

TFPS_TEST(SlotsMayBeNarrowerThanTheirRows) {
  ForEachStore([](const MakeStore& make) {
    const int64_t dim = 6;
    const auto store = make(dim, {1});
    const auto rowwise = ValueOf(MakeRowUpdater("rowwise_adagrad"));
    const std::vector<float> gradients(2 * dim, 3.0f), hyper = {0.5f, 0.0f, 0.0f};
    TFPS_CHECK(store->UpdateRows(*rowwise, hyper.data(), KeysOf({8, 1}), gradients.data(), InCallersThread).ok());
    // a = 9 for the whole row, w moves by 0.5 * 3 / 3; a key has its row and one float more.
    const auto rows = Scanned(*store, dim, 3);
    for (int64_t key : {1, 8}) {
      TFPS_CHECK(static_cast<int64_t>(rows.at(key).size()) == dim + 1 && rows.at(key)[dim] == 9.0f);
      for (int64_t j = 0; j < dim; ++j) TFPS_CHECK(std::fabs(rows.at(key)[j] - FirstValue(key, j) + 0.5f) < 1e-4f);
    }
    const auto wide = make(dim, {dim});
    TFPS_CHECK(wide->UpdateRows(*rowwise, hyper.data(), KeysOf({8, 1}), gradients.data(), InCallersThread)
                   .message()
                   .find("slot 0 must have 1 columns") == 0);
  });
}

TFPS_TEST(AStoreWithFixedRowsRefusesOtherKeysAndChangesNothing) {
  MatrixRowStore store(FirstValues(2), 2, {});
  const auto before = Scanned(store, 2, kRows);
  for (int64_t bad : {int64_t{-1}, kRows, INT64_MIN, INT64_MAX}) {
    const Keys keys = {0, bad};
    std::vector<float> out(4, -5.0f);
    const Status copied = store.CopyRows(KeysOf(keys), out.data(), InCallersThread);
    TFPS_CHECK(copied.code() == StatusCode::kInvalidArgument);
    TFPS_CHECK(copied.message() == "rows must be at least 0 and below 40. Received: " + std::to_string(bad) + ".");
    TFPS_CHECK(out == std::vector<float>(4, -5.0f));
    const auto sgd = ValueOf(MakeRowUpdater("sgd"));
    TFPS_CHECK(!store.UpdateRows(*sgd, kSgd.data(), KeysOf(keys), out.data(), InCallersThread).ok());
  }
  TFPS_CHECK(Scanned(store, 2, kRows) == before);
}

TFPS_TEST(AStoreThatGrowsInsertsOnCopyAndOnUpdate) {
  MapRowStore store(2, {});
  TFPS_CHECK(Copied(&store, {int64_t{1} << 60, -3}, 2)[0] == FirstValue(int64_t{1} << 60, 0));
  const float gradients[] = {1, 2};
  TFPS_CHECK(store.UpdateRows(*ValueOf(MakeRowUpdater("sgd")), kSgd.data(), KeysOf({5}), gradients, InCallersThread).ok());
  const auto rows = Scanned(store, 2, 1);
  TFPS_CHECK(rows.size() == 3);
  TFPS_CHECK(rows.at(5) == (std::vector<float>{FirstValue(5, 0) - 1, FirstValue(5, 1) - 2}));
}

TFPS_TEST(AnObserverHearsOfUpdatesThatWereDone) {
  MatrixRowStore store(FirstValues(2), 2, {});
  TouchedRows touched;
  const auto sgd = ValueOf(MakeRowUpdater("sgd"));
  const std::vector<float> gradients(6, 1.0f);
  const auto update = [&](const Keys& keys) {
    return store.UpdateRows(*sgd, kSgd.data(), KeysOf(keys), gradients.data(), InCallersThread).ok();
  };
  TFPS_CHECK(update({1}));  // nobody watches yet
  store.Observe(&touched);
  TFPS_CHECK(update({8, 2}) && !update({3, kRows}) && update({2, 5}));
  TFPS_CHECK(touched.Since(0).value().rows == (Keys{2, 5, 8}));
  TFPS_CHECK(touched.Since(1).value().rows == (Keys{2, 5}));
  store.Observe(nullptr);
  TFPS_CHECK(update({7}) && touched.Since(2).value().rows.empty());
}

TFPS_TEST(ConcurrentUpdatesAreNotLost) {
  ForEachStore([](const MakeStore& make) {
    constexpr int kThreads = 4, kSteps = 50;
    const int64_t dim = 8;
    const auto store = make(dim, {});
    const auto sgd = ValueOf(MakeRowUpdater("sgd"));
    const Keys keys = {0, 5, 11};
    const std::vector<float> gradients(keys.size() * dim, -1.0f);  // each update adds 1
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int step = 0; step < kSteps; ++step) {
          TFPS_CHECK(store->UpdateRows(*sgd, kSgd.data(), KeysOf(keys), gradients.data(), InCallersThread).ok());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const std::vector<float> rows = Copied(store.get(), keys, dim);
    for (size_t i = 0; i < rows.size(); ++i) {
      TFPS_CHECK(rows[i] == FirstValue(keys[i / dim], i % dim) + kThreads * kSteps);
    }
  });
}

TFPS_TEST(NoRowIsSeenHalfUpdated) {
  // Updates move all elements of a row, and of its slot, alike. A reader that saw half an update would find the difference
  // between two elements off by a whole step, which is at least 1 / sqrt(200).
  ForEachStore([](const MakeStore& make) {
    constexpr int kSteps = 200;
    const int64_t dim = 64;
    const auto store = make(dim, {dim});
    const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
    const Keys keys = {3};
    const std::vector<float> gradients(dim, 1.0f), hyper = {-1.0f, 0.0f, 0.0f};
    Copied(store.get(), keys, dim);
    std::atomic<bool> done{false};
    std::thread writer([&] {
      for (int step = 0; step < kSteps; ++step) {
        TFPS_CHECK(store->UpdateRows(*adagrad, hyper.data(), KeysOf(keys), gradients.data(), InCallersThread).ok());
      }
      done = true;
    });
    while (!done) {
      const std::vector<float> row = Copied(store.get(), keys, dim);
      const std::vector<float> parts = Scanned(*store, dim, kRows).at(3);
      for (int64_t j = 0; j < dim; ++j) {
        TFPS_CHECK(std::fabs(row[j] - row[0] - j) < 0.02f && std::fabs(parts[j] - parts[0] - j) < 0.02f);
        TFPS_CHECK(parts[dim + j] == parts[dim]);
      }
      // The slot counts the updates, which says how far the row has come: a scan sees both at one moment.
      float moved = 0;
      for (int step = 1; step <= parts[dim]; ++step) moved += 1 / std::sqrt(static_cast<float>(step));
      TFPS_CHECK(std::fabs(parts[0] - FirstValue(3, 0) - moved) < 0.02f);
    }
    writer.join();
    TFPS_CHECK(Scanned(*store, dim, kRows).at(3)[dim] == kSteps);
  });
}

}  // namespace
}  // namespace tfps
