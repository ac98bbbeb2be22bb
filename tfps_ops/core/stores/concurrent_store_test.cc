// Workers, an exporter and a saver at one store at once, as on a server: what each may rely on, and no data race between them.
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "tfps_ops/core/stores/matrix_row_store.h"
#include "tfps_ops/core/stores/touched_rows.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

constexpr int64_t kRows = 300, kDim = 8;
constexpr int kWorkers = 3, kSteps = 120, kRowsOfStep = 10;

// Adds 1 to every element of some rows, `steps` times, with other rows each time.
void Work(RowStore* store, int seed) {
  Random random(seed);
  const auto sgd = ValueOf(MakeRowUpdater("sgd"));
  const float hyper[] = {-1.0f, 0.0f};
  const std::vector<float> gradients(kRowsOfStep * kDim, 1.0f);
  for (int step = 0; step < kSteps; ++step) {
    std::vector<int64_t> keys;
    const int64_t first = random.Integer(0, kRows - 1);
    for (int64_t i = 0; i < kRowsOfStep; ++i) keys.push_back((first + i * 29) % kRows);
    TFPS_CHECK(store->UpdateRows(*sgd, hyper, {keys.data(), kRowsOfStep}, gradients.data(), InCallersThread).ok());
  }
}

// All rows of the store, read in chunks.
std::vector<float> ReadAll(const RowStore& store, int64_t chunk_rows) {
  std::vector<float> rows;
  for (int64_t cursor = 0; cursor != RowStore::kEnd;) {
    auto chunk = store.ScanRows(cursor, chunk_rows);
    TFPS_CHECK(chunk.ok());
    rows.insert(rows.end(), chunk.value().rows.begin(), chunk.value().rows.end());
    cursor = chunk.value().cursor;
  }
  TFPS_CHECK(rows.size() == kRows * kDim);
  return rows;
}

TFPS_TEST(AnExporterThatFollowsTheCursorEndsWithTheSameRows) {
  MatrixRowStore store(std::vector<float>(kRows * kDim), kDim, {});
  TouchedRows touched;
  store.Observe(&touched);
  std::atomic<int> working{kWorkers};
  std::vector<std::thread> threads;
  for (int w = 0; w < kWorkers; ++w) {
    threads.emplace_back([&, w] {
      Work(&store, w);
      --working;
    });
  }
  // The exporter: reads the rows that were touched since it last looked, and nothing else.
  std::vector<float> copy(kRows * kDim);
  threads.emplace_back([&] {
    int64_t cursor = 0;
    bool last = false;
    while (!last) {
      last = working == 0;
      const auto since = touched.Since(cursor);
      TFPS_CHECK(since.ok());
      const std::vector<int64_t>& keys = since.value().rows;
      std::vector<float> rows(keys.size() * kDim);
      TFPS_CHECK(store.CopyRows({keys.data(), static_cast<int64_t>(keys.size())}, rows.data(), InCallersThread).ok());
      for (size_t i = 0; i < rows.size(); ++i) {
        float& before = copy[keys[i / kDim] * kDim + i % kDim];
        TFPS_CHECK(rows[i] >= before + 1);  // a reported row has at least one update that was not in the copy
        before = rows[i];
      }
      cursor = since.value().cursor;
      // A row that is updated between Since and the copy is reported again without a new update: it must count once.
      const auto again = touched.Since(cursor);
      for (int64_t key : again.value().rows) {
        for (int64_t j = 0; j < kDim; ++j) copy[key * kDim + j] = -1;  // to be read anew, whatever it is
      }
    }
  });
  for (std::thread& thread : threads) thread.join();
  TFPS_CHECK(copy == ReadAll(store, 64));
  TFPS_CHECK(touched.Since(0).value().cursor == kWorkers * kSteps);
}

TFPS_TEST(ASaverReadsWholeRowsWhileTheyAreUpdated) {
  MatrixRowStore store(std::vector<float>(kRows * kDim), kDim, {});
  std::atomic<int> working{kWorkers};
  std::vector<std::thread> threads;
  for (int w = 0; w < kWorkers; ++w) {
    threads.emplace_back([&, w] {
      Work(&store, 10 + w);
      --working;
    });
  }
  threads.emplace_back([&] {
    std::vector<float> before(kRows * kDim);
    while (working > 0) {
      const std::vector<float> now = ReadAll(store, 7);
      for (int64_t i = 0; i < kRows * kDim; ++i) {
        TFPS_CHECK(now[i] == now[i / kDim * kDim]);  // all elements of a row have had the same updates
        TFPS_CHECK(now[i] >= before[i]);             // and none is taken back
      }
      before = now;
    }
  });
  for (std::thread& thread : threads) thread.join();
  double total = 0;
  for (float f : ReadAll(store, kRows)) total += f;
  TFPS_CHECK(total == 1.0 * kWorkers * kSteps * kRowsOfStep * kDim);
}

TFPS_TEST(ObserversMayComeAndGoWhileRowsAreUpdated) {
  MatrixRowStore store(std::vector<float>(kRows * kDim), kDim, {});
  std::atomic<bool> done{false};
  std::thread worker([&] {
    Work(&store, 20);
    done = true;
  });
  int64_t heard = 0;
  while (!done) {
    auto touched = std::make_unique<TouchedRows>();
    store.Observe(touched.get());
    std::this_thread::yield();
    store.Observe(nullptr);  // after this nobody calls it, so it may go
    heard += touched->Since(0).value().cursor;
  }
  worker.join();
  TFPS_CHECK(heard <= kSteps);
}

}  // namespace
}  // namespace tfps
