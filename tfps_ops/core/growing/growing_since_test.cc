// What readers of changes are told: rows that were touched, keys that went, and when they must read everything.
#include <algorithm>
#include <map>
#include <set>

#include "tfps_ops/core/growing/gone_log.h"
#include "tfps_ops/core/growing/growing_testing.h"
#include "tfps_ops/core/growing/tick_clock.h"

namespace tfps {
namespace {

using Rows = std::shared_ptr<GrowingRows>;

Keys Sorted(Keys keys) {
  std::sort(keys.begin(), keys.end());
  return keys;
}

TFPS_TEST(TheExampleOfChanges) {
  const Rows rows = ValueOf(MakeGrowingRows(Zeros(2)));
  TFPS_CHECK(Add(rows.get(), {1, 2, 3}, 1).ok());
  const int64_t first = ValueOf(rows->Since(GrowingRows::kNow)).cursor;
  TFPS_CHECK(Add(rows.get(), {2, 9}, 1).ok());
  TFPS_CHECK(rows->Erase(Of({1, 8})) == 1);
  const KeysSince since = ValueOf(rows->Since(first));
  TFPS_CHECK(Sorted(since.touched) == (Keys{2, 9}) && since.evicted == Keys{1} && since.complete);
  TFPS_CHECK(Add(rows.get(), {1}, 1).ok());  // it returns
  const KeysSince then = ValueOf(rows->Since(since.cursor));
  TFPS_CHECK(then.touched == Keys{1} && then.evicted.empty());
  const KeysSince all = ValueOf(rows->Since(first));
  TFPS_CHECK(Sorted(all.touched) == (Keys{1, 2, 9}) && all.evicted.empty());
}

TFPS_TEST(ChangesEqualASlowTwinAtEveryCursor) {
  for (int seed = 0; seed < 4; ++seed) {
    Random random(seed);
    const Rows rows = ValueOf(MakeGrowingRows(Zeros(1)));
    std::map<int64_t, int64_t> touched, gone;  // keys to the number of the step
    std::vector<std::pair<int64_t, int64_t>> cursors = {{ValueOf(rows->Since(GrowingRows::kNow)).cursor, 0}};
    for (int64_t step = 1; step <= 150; ++step) {
      Keys keys;
      for (int64_t key = random.Integer(0, 30); key < 400; key += random.Integer(1, 60)) keys.push_back(key);
      if (random.Integer(0, 2) == 0) {
        rows->Erase(Of(keys));
        for (int64_t key : keys) {
          if (touched.erase(key) > 0) gone[key] = step;
        }
      } else {
        if (random.Integer(0, 3) == 0) {
          const std::vector<float> values(keys.size());
          TFPS_CHECK(rows->Assign(0, Of(keys), values.data()).ok());
        } else {
          TFPS_CHECK(Add(rows.get(), keys, 1).ok());
        }
        for (int64_t key : keys) touched[key] = step, gone.erase(key);
      }
      const auto [cursor, at] = cursors[random.Integer(0, cursors.size() - 1)];
      const KeysSince since = ValueOf(rows->Since(cursor));
      Keys expected_touched, expected_gone;
      for (const auto& [key, when] : touched) {
        if (when > at) expected_touched.push_back(key);
      }
      for (const auto& [key, when] : gone) {
        if (when > at) expected_gone.push_back(key);
      }
      TFPS_CHECK(Sorted(since.touched) == expected_touched && since.complete);
      // A key that was made and went after the cursor is in the log, too; its reader never had it.
      TFPS_CHECK(Sorted(since.evicted) == expected_gone);
      cursors.emplace_back(since.cursor, step);
    }
  }
}

TFPS_TEST_OF_MANY(TheLogIsBoundedAndSaysWhenItHasForgotten) {
  const Rows rows = ValueOf(MakeGrowingRows(Zeros(1)));
  const int64_t first = ValueOf(rows->Since(GrowingRows::kNow)).cursor;
  int64_t most_bytes = 0, later = 0;
  for (int64_t step = 0; step < 40; ++step) {
    Keys keys(50'000);
    for (size_t i = 0; i < keys.size(); ++i) keys[i] = step * 50'000 + static_cast<int64_t>(i);
    TFPS_CHECK(Add(rows.get(), keys, 1).ok());
    TFPS_CHECK(rows->Erase(Of(keys)) == 50'000);
    most_bytes = std::max(most_bytes, rows->Counts().bytes);
    if (step == 35) later = ValueOf(rows->Since(first)).cursor;
  }
  // Two million keys went, of which one million is kept, at 12 bytes.
  const KeysSince since = ValueOf(rows->Since(first)), lately = ValueOf(rows->Since(later));
  TFPS_CHECK(!since.complete && lately.complete);
  TFPS_CHECK(since.evicted.size() > 600'000 && since.evicted.size() <= 1'000'000);
  TFPS_CHECK(lately.evicted.size() == 200'000);
  TFPS_CHECK(most_bytes < 20'000'000);
}

TFPS_TEST_OF_MANY(TheSameKeysThatComeAndGoDoNotFillTheLog) {
  const Rows rows = ValueOf(MakeGrowingRows(Zeros(1)));
  const int64_t first = ValueOf(rows->Since(GrowingRows::kNow)).cursor;
  Keys keys(100'000);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<int64_t>(i);
  for (int step = 0; step < 30; ++step) {
    TFPS_CHECK(Add(rows.get(), keys, 1).ok());
    rows->Erase(Of(keys));
  }
  const KeysSince since = ValueOf(rows->Since(first));
  TFPS_CHECK(since.complete && Sorted(since.evicted) == keys && since.touched.empty());
}

TFPS_TEST(AClearedTableTellsReadersToReadItAll) {
  const Rows rows = ValueOf(MakeGrowingRows(Zeros(1)));
  TFPS_CHECK(Add(rows.get(), {1, 2}, 1).ok());
  const int64_t first = ValueOf(rows->Since(GrowingRows::kNow)).cursor;
  rows->Clear();
  TFPS_CHECK(Add(rows.get(), {3}, 1).ok());
  const KeysSince since = ValueOf(rows->Since(first));
  TFPS_CHECK(!since.complete && since.touched == Keys{3});
  TFPS_CHECK(ValueOf(rows->Since(since.cursor)).complete);
}

TFPS_TEST(RestoredAgesHideNoRowFromAReader) {
  GrowingOptions options = WithEviction(1, Eviction::Kind::kUnseen);
  options.eviction.steps = 1000;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  const int64_t first = ValueOf(rows->Since(GrowingRows::kNow)).cursor;
  const float value = 1;
  const RowMeta meta = {500, 0, 0};
  TFPS_CHECK(rows->Assign(0, Of({4}), &value).ok());
  rows->AssignMeta(Of({4}), &meta);
  TFPS_CHECK(ValueOf(rows->Since(first)).touched == Keys{4});
}

TFPS_TEST(ManyTicksAreThinnedOutAndAgesStayNearlyRight) {
  double now = 0;
  TickClock::Pace pace;
  pace.updates = 1;
  TickClock clock(pace, [&now] { return now; });
  std::map<uint32_t, int64_t> touched;  // ticks to the update in which they ended
  for (int64_t update = 1; update <= 20'000; ++update) {
    now += 1;
    touched[clock.tick()] = update;
    clock.WillTouch(1);
    clock.CountUpdate();
  }
  const auto history = clock.History();
  TFPS_CHECK(history->records().size() <= 1024);
  for (const auto& [tick, update] : touched) {
    const TickRecord* record = history->Of(tick);
    const double age = static_cast<double>(20'000 - update), told = static_cast<double>(20'000 - record->updates);
    TFPS_CHECK(told <= age && told >= age * (1 - 1.0 / 16) - 1);
    TFPS_CHECK(record->seconds == static_cast<double>(record->updates));
  }
}

}  // namespace
}  // namespace tfps
