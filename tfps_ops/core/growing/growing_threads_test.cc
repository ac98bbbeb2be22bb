// Many threads at one table: nothing is lost, nothing is seen in halves, and scans see every row once.
#include <atomic>
#include <cmath>
#include <set>
#include <thread>
#include <unordered_map>

#include "tfps_ops/core/growing/growing_testing.h"

namespace tfps {
namespace {

using Rows = std::shared_ptr<GrowingRows>;

constexpr int kThreads = 4;

// Runs work(thread) on kThreads threads and waits for all.
template <class Work>
void OnThreads(const Work& work) {
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) threads.emplace_back([&work, t] { work(t); });
  for (std::thread& thread : threads) thread.join();
}

TFPS_TEST(ThreadsThatMakeAndUpdateTheSameRowsLoseNothing) {
  const Rows rows = ValueOf(MakeGrowingRows(Zeros(6)));
  constexpr int64_t kKeys = 300;  // few, and many steps: threads meet
  constexpr int kSteps = 3000, kKeysOfStep = 250;
  OnThreads([&](int t) {
    Random random(t);
    for (int step = 0; step < kSteps; ++step) {
      Keys keys;
      const int64_t first = random.Integer(0, kKeys - 1);
      for (int64_t i = 0; i < kKeysOfStep; ++i) keys.push_back((first + i * 7) % kKeys);
      TFPS_CHECK(Add(rows.get(), keys, 1).ok());
    }
  });
  double total = 0;
  for (int64_t key = 0; key < kKeys; ++key) {
    const std::vector<float> row = Read(*rows, 0, {key});
    TFPS_CHECK(row == std::vector<float>(6, row[0]));
    total += row[0];
  }
  TFPS_CHECK(total == 1.0 * kThreads * kSteps * kKeysOfStep);
  TFPS_CHECK(rows->Counts().rows == static_cast<int64_t>(StoredKeys(*rows).size()));
  TFPS_CHECK(rows->Counts().admitted == rows->Counts().rows && rows->Counts().updates == kThreads * kSteps);
}

TFPS_TEST(CopiesAndScansSeeWholeRowsWhileRowsComeGoAndGetColumns) {
  const Rows rows = ValueOf(MakeGrowingRows(Zeros(16)));
  constexpr int64_t kKeys = 2000;
  std::atomic<int> working{2};
  OnThreads([&](int t) {
    Random random(10 + t);
    if (t < 2) {
      for (int step = 0; step < 150; ++step) {
        Keys keys;
        for (int64_t key = random.Integer(0, 9); key < kKeys; key += 10) keys.push_back(key);
        TFPS_CHECK(Add(rows.get(), keys, 1).ok());
        if (step % 10 == 5) rows->Erase(Of(Keys(keys.begin(), keys.begin() + 50)));
        if (t == 0 && step % 50 == 25) (void)ValueOf(rows->AddColumn(3, 1));
      }
      --working;
      return;
    }
    while (working > 0) {
      Keys keys;
      for (int i = 0; i < 300; ++i) keys.push_back(random.Integer(0, kKeys - 1));
      const std::vector<float> out = t == 2 ? Read(*rows, 0, keys) : ValueOf(rows->Scan({0}, 0, 300)).rows.rows;
      for (size_t i = 0; i < out.size(); ++i) TFPS_CHECK(out[i] == out[i / 16 * 16]);
    }
  });
  TFPS_CHECK(rows->ColumnWidth(3) == 3 && rows->ColumnWidth(4) == -1);
  TFPS_CHECK(Read(*rows, 3, {0, 1, kKeys}) == std::vector<float>(9, 1.0f));
}

TFPS_TEST(AScanSeesEachRowOnceWhileTheTableGrows) {
  const Rows rows = ValueOf(MakeGrowingRows(Zeros(2)));
  constexpr int64_t kOld = 20'000, kNew = 60'000;
  Keys old;
  for (int64_t key = 0; key < kOld; ++key) old.push_back(key);
  TFPS_CHECK(Add(rows.get(), old, 1).ok());
  std::atomic<bool> scanned{false};
  std::thread writer([&] {
    for (int64_t begin = kOld; begin < kNew && !scanned; begin += 500) {
      Keys keys;
      for (int64_t i = 0; i < 500; ++i) keys.push_back(begin + i);
      TFPS_CHECK(Add(rows.get(), keys, 1).ok());
      rows->Erase(Of(Keys(keys.begin(), keys.begin() + 250)));  // blocks move as others go
    }
  });
  std::set<int64_t> seen;
  for (int64_t cursor = 0; cursor != RowStore::kEnd;) {
    const GrowingChunk chunk = ValueOf(rows->Scan({0}, cursor, 137));
    TFPS_CHECK(chunk.rows.keys.size() <= 137);
    for (int64_t key : chunk.rows.keys) TFPS_CHECK(seen.insert(key).second);
    cursor = chunk.rows.cursor;
  }
  scanned = true;
  writer.join();
  for (int64_t key : old) TFPS_CHECK(seen.count(key) == 1);
}

TFPS_TEST(AReaderThatFollowsItsCursorEndsWithTheSameRows) {
  GrowingOptions options = WithEviction(3, Eviction::Kind::kLeastRecent);
  options.eviction.max_rows = 3000;  // so that rows go by eviction, too
  const Rows rows = ValueOf(MakeGrowingRows(options));
  int64_t cursor = ValueOf(rows->Since(GrowingRows::kNow)).cursor;
  std::unordered_map<int64_t, float> copy;
  const auto follow = [&] {
    const KeysSince since = ValueOf(rows->Since(cursor));
    TFPS_CHECK(since.complete && since.cursor > cursor);
    TFPS_CHECK(std::set<int64_t>(since.touched.begin(), since.touched.end()).size() == since.touched.size());
    TFPS_CHECK(std::set<int64_t>(since.evicted.begin(), since.evicted.end()).size() == since.evicted.size());
    for (int64_t key : since.evicted) copy.erase(key);
    for (int64_t key : since.touched) copy[key] = Read(*rows, 0, {key})[0];
    cursor = since.cursor;
  };
  std::atomic<int> working{kThreads - 1};
  OnThreads([&](int t) {
    if (t == kThreads - 1) {
      while (working > 0) follow();
      return;
    }
    Random random(20 + t);
    for (int step = 0; step < 100; ++step) {
      Keys keys;
      const int64_t first = random.Integer(0, 9999);
      for (int64_t i = 0; i < 60; ++i) keys.push_back((first + i * 13) % 10'000);
      TFPS_CHECK(Add(rows.get(), keys, 1).ok());
      if (step % 7 == 0) rows->Erase(Of({first}));
    }
    --working;
  });
  follow();
  const Keys stored = StoredKeys(*rows);
  TFPS_CHECK(copy.size() == stored.size());
  for (int64_t key : stored) TFPS_CHECK(copy.count(key) == 1 && copy[key] == Read(*rows, 0, {key})[0]);
  TFPS_CHECK(rows->Counts().evicted > 0 && rows->Counts().rows <= 3000);
}

TFPS_TEST(EveryMethodMayRunBesideEveryOther) {
  GrowingOptions options = WithEviction(4, Eviction::Kind::kScore);
  options.eviction.steps = 20, options.eviction.decay = 0.5, options.eviction.threshold = 0.1;
  options.eviction.max_rows = 1500;
  options.admission = {Admission::Kind::kCount, 2};
  const Rows rows = ValueOf(MakeGrowingRows(options));
  OnThreads([&](int t) {
    Random random(30 + t);
    int64_t cursor = ValueOf(rows->Since(GrowingRows::kNow)).cursor;
    for (int step = 0; step < 150; ++step) {
      Keys keys;
      const int64_t first = random.Integer(0, 3999);
      for (int64_t i = 0; i < 40; ++i) keys.push_back((first + i * 13) % 4000);
      const std::vector<float> amounts(keys.size() * 4, 1.0f);
      const std::vector<RowMeta> meta(keys.size());
      std::vector<float> out(keys.size() * 4);
      TFPS_CHECK(Add(rows.get(), keys, 1).ok());
      switch (random.Integer(0, 9)) {
        case 0: (void)rows->Assign(0, Of(keys), amounts.data()); break;
        case 1: rows->AssignMeta(Of(keys), meta.data()); break;
        case 2: rows->Erase(Of(keys)); break;
        case 3: rows->Pin(Of({first}), step % 2 == 0); break;
        case 4: TFPS_CHECK(rows->AddScores(Of(keys), amounts.data()).ok()); break;
        case 5: rows->Evict(300); break;
        case 6: cursor = ValueOf(rows->Since(cursor)).cursor; break;
        case 7: rows->DropColumn(ValueOf(rows->AddColumn(2, 0))); break;
        case 8: (void)ValueOf(rows->Scan({0}, 0, 500)); break;
        default: TFPS_CHECK(rows->Copy(0, Of(keys), true, out.data(), InCallersThread).ok());
      }
      if (t == 0 && step == 75) rows->Clear();
      // Assign makes rows beyond the budget, and the next update takes them back; each thread may just have assigned 40.
      TFPS_CHECK(rows->Counts().rows <= 1500 + 40 * kThreads);
    }
  });
  TFPS_CHECK(rows->Counts().rows == static_cast<int64_t>(StoredKeys(*rows).size()));
  // Rows of the last ticks may not go yet, so it can take some updates.
  for (int update = 0; update < 1000 && rows->Counts().rows > 1500; ++update) TFPS_CHECK(Add(rows.get(), {0}, 1).ok());
  TFPS_CHECK(rows->Counts().rows <= 1500);
}

}  // namespace
}  // namespace tfps
