// Which rows go: each rule against a slow twin where it is exact, and against bounds where it takes what is near the end.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tfps_ops/core/growing/growing_testing.h"

namespace tfps {
namespace {

using Rows = std::shared_ptr<GrowingRows>;

constexpr int64_t kAll = INT64_MAX;

Keys RandomKeys(Random* random, int64_t below, int64_t most) {
  std::set<int64_t> keys;
  for (int64_t i = random->Integer(1, most); i > 0; --i) keys.insert(random->Integer(0, below - 1));
  return Keys(keys.begin(), keys.end());
}

Keys KeysOf(const std::map<int64_t, double>& twin) {
  Keys keys;
  for (const auto& [key, value] : twin) keys.push_back(key);
  return keys;
}

TFPS_TEST(UnseenForStepsEqualsASlowTwin) {
  // Horizons of up to 64 updates are exact, as each update is a tick.
  for (int64_t steps : {3, 10, 64}) {
    GrowingOptions options = WithEviction(2, Eviction::Kind::kUnseen);
    options.eviction.steps = steps;
    const Rows rows = ValueOf(MakeGrowingRows(options));
    Random random(static_cast<int>(steps));
    std::map<int64_t, double> last;  // the update that touched a row last
    for (int64_t update = 1; update <= 300; ++update) {
      const Keys keys = RandomKeys(&random, 200, 4), looked_up = RandomKeys(&random, 200, 2);
      TFPS_CHECK(Add(rows.get(), keys, 1).ok());
      for (int64_t key : keys) last[key] = static_cast<double>(update);
      for (auto it = last.begin(); it != last.end();) {
        if (update - it->second >= static_cast<double>(steps)) it = last.erase(it);
        else ++it;
      }
      rows->Evict(kAll);
      TFPS_CHECK(StoredKeys(*rows) == KeysOf(last));
      // A lookup of a step counts, as part of the tick that the next update ends; other lookups do not.
      std::vector<float> out(looked_up.size() * 2);
      TFPS_CHECK(rows->Copy(0, Of(looked_up), update % 2 == 0, out.data(), InCallersThread).ok());
      for (int64_t key : looked_up) {
        if (update % 2 == 0 && last.count(key) > 0) last[key] = static_cast<double>(update + 1);
      }
    }
    TFPS_CHECK(rows->Counts().evicted == rows->Counts().admitted - rows->Counts().rows);
  }
}

TFPS_TEST(UnseenForSecondsGoesByTheClockAlsoAtRest) {
  double now = 1000;
  GrowingOptions options = WithEviction(2, Eviction::Kind::kUnseen);
  options.eviction.seconds = 640;  // ticks of ten seconds
  options.now = [&now] { return now; };
  const Rows rows = ValueOf(MakeGrowingRows(options));
  Random random(3);
  std::map<int64_t, double> last;
  for (int step = 0; step < 400; ++step) {
    now += static_cast<double>(random.Integer(1, 20));
    const Keys keys = RandomKeys(&random, 500, 5);
    TFPS_CHECK(Add(rows.get(), keys, 1).ok());
    for (int64_t key : keys) last[key] = now;
    if (step % 10 != 0) continue;
    rows->Evict(kAll);
    const Keys stored = StoredKeys(*rows);
    const std::set<int64_t> there(stored.begin(), stored.end());
    for (const auto& [key, seconds] : last) {
      if (now - seconds < 640) TFPS_CHECK(there.count(key) == 1);
      // Two ticks and a step later at most.
      if (now - seconds > 640 + 2 * 10 + 20) TFPS_CHECK(there.count(key) == 0);
    }
  }
  // Nobody updates any more.
  now += 639;
  rows->Evict(kAll);
  TFPS_CHECK(rows->Counts().rows > 0);
  now += 30;
  rows->Evict(kAll);
  TFPS_CHECK(rows->Counts().rows == 0 && StoredKeys(*rows).empty());
}

TFPS_TEST(UpdatesAloneEvictWhatIsUnseenWithinTheHorizon) {
  GrowingOptions options = WithEviction(2, Eviction::Kind::kUnseen);
  options.eviction.steps = 640;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  Keys keys;
  for (int64_t key = 0; key < 20'000; ++key) keys.push_back(key);
  TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  for (int update = 0; update < 639; ++update) TFPS_CHECK(Add(rows.get(), {5}, 1).ok());
  TFPS_CHECK(rows->Counts().rows == 20'000);
  // A round of the hand is an eighth of the horizon, and a tick 10 updates. A row may be met at the begin of a round and then at
  // the end of the next.
  for (int update = 0; update < 10 + 2 * 80 + 10; ++update) TFPS_CHECK(Add(rows.get(), {5}, 1).ok());
  TFPS_CHECK(StoredKeys(*rows) == Keys{5} && Read(*rows, 0, {5})[0] == 820);
}

TFPS_TEST(SmallNormsGoOnceTheyAreOldEnough) {
  GrowingOptions options = WithEviction(3, Eviction::Kind::kSmallNorm);
  options.eviction.steps = 20;
  options.eviction.threshold = 1;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  struct Row {
    int64_t born, touched;
    float value;
  };
  std::map<int64_t, Row> twin;
  Random random(4);
  for (int64_t update = 1; update <= 300; ++update) {
    const Keys keys = RandomKeys(&random, 100, 5);
    const float amount = random.Float() * 0.3f;
    TFPS_CHECK(Add(rows.get(), keys, amount).ok());
    for (int64_t key : keys) {
      Row& row = twin.try_emplace(key, Row{update, update, 0.0f}).first->second;
      row.touched = update;
      row.value += amount;
    }
    rows->Evict(kAll);
    for (auto it = twin.begin(); it != twin.end();) {
      // Each update is a tick: the row of the last one is under way.
      const bool safe = it->second.touched == update;
      const double norm = std::sqrt(3.0 * it->second.value * it->second.value);
      if (!safe && update - it->second.born >= 20 && norm < 1) it = twin.erase(it);
      else ++it;
    }
    const Keys stored = StoredKeys(*rows);
    TFPS_CHECK(stored.size() == twin.size());
    for (int64_t key : stored) TFPS_CHECK(twin.count(key) == 1 && Read(*rows, 0, {key})[0] == twin[key].value);
  }
  TFPS_CHECK(rows->Counts().evicted > 20 && rows->Counts().rows > 5);
}

TFPS_TEST(ScoresDecayAsInASlowTwin) {
  GrowingOptions options = WithEviction(2, Eviction::Kind::kScore);
  options.eviction.steps = 10, options.eviction.decay = 0.5, options.eviction.gain = 0.75, options.eviction.threshold = 0.4;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  struct Row {
    double score;
    int64_t period;  // when it was touched last
  };
  std::map<int64_t, Row> twin;
  Random random(5);
  int64_t period = 0;
  for (int64_t update = 1; update <= 400; ++update) {
    const Keys keys = RandomKeys(&random, 150, 3), clicked = RandomKeys(&random, 150, 2);
    TFPS_CHECK(Add(rows.get(), keys, 1).ok());
    for (int64_t key : keys) {
      Row& row = twin.try_emplace(key, Row{0, period}).first->second;
      row.score += 0.75, row.period = period;
    }
    if (update % 10 == 0) {
      for (auto& [key, row] : twin) row.score *= 0.5;
      ++period;
    }
    rows->Evict(kAll);
    for (auto it = twin.begin(); it != twin.end();) {
      if (it->second.period < period - 1 && it->second.score < 0.4) it = twin.erase(it);
      else ++it;
    }
    const std::vector<float> amounts(clicked.size(), 2.0f);
    TFPS_CHECK(rows->AddScores(Of(clicked), amounts.data()).ok());
    for (int64_t key : clicked) {
      const auto found = twin.find(key);
      if (found != twin.end()) found->second.score += 2, found->second.period = period;
    }
    const GrowingChunk chunk = ValueOf(rows->Scan({0}, 0, 1000));
    TFPS_CHECK(chunk.rows.keys.size() == twin.size());
    for (size_t i = 0; i < chunk.rows.keys.size(); ++i) {
      const auto found = twin.find(chunk.rows.keys[i]);
      TFPS_CHECK(found != twin.end() && std::fabs(chunk.meta[i].score - found->second.score) < 1e-5);
    }
  }
  TFPS_CHECK(rows->Counts().evicted > 20 && rows->Counts().rows > 5);
}

TFPS_TEST(AtTheBudgetTheOldestGoAndHotRowsStay) {
  GrowingOptions options = WithEviction(4, Eviction::Kind::kLeastRecent);
  constexpr int64_t kMost = 10'000;
  options.eviction.max_rows = kMost;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  Keys hot;
  for (int64_t key = 0; key < 500; ++key) hot.push_back(-1 - key);
  std::map<int64_t, int64_t> last;
  for (int64_t update = 0; update < 2000; ++update) {
    Keys keys;
    for (int64_t i = 0; i < 100; ++i) keys.push_back(update * 100 + i);
    keys.push_back(hot[update % 500]);
    TFPS_CHECK(Add(rows.get(), keys, 1).ok());
    TFPS_CHECK(rows->Counts().rows <= kMost);
  }
  TFPS_CHECK(rows->Counts().refused == 0 && rows->Counts().evicted > 180'000);
  const Keys stored = StoredKeys(*rows);
  // A hot row comes each 500 updates, in which 50,000 others do: the hand has been over it. The other way round, what came
  // lately is there: only the oldest sixteenth goes, more or less.
  int64_t lately = 0;
  for (int64_t key : stored) lately += key >= 2000 * 100 - 8000;
  TFPS_CHECK(lately > 7600);
}

TFPS_TEST_OF_MANY(RowsThatComeInEveryTickAreNeverEvicted) {
  for (auto kind : {Eviction::Kind::kLeastRecent, Eviction::Kind::kLeastFrequent}) {
    GrowingOptions options = WithEviction(4, kind);
    options.eviction.max_rows = 2000;
    const Rows rows = ValueOf(MakeGrowingRows(options));
    for (int64_t update = 0; update < 3000; ++update) {
      Keys keys;
      for (int64_t i = 0; i < 40; ++i) keys.push_back(1'000'000 + update * 40 + i);
      for (int64_t i = 0; i < 20; ++i) keys.push_back(i);
      TFPS_CHECK(Add(rows.get(), keys, 1).ok());
    }
    for (int64_t key = 0; key < 20; ++key) TFPS_CHECK(Read(*rows, 0, {key})[0] == 3000);
    TFPS_CHECK(rows->Counts().evicted > 100'000 && rows->Counts().over_budget == 0);
  }
}

TFPS_TEST(TheLeastFrequentGo) {
  GrowingOptions options = WithEviction(2, Eviction::Kind::kLeastFrequent);
  options.eviction.max_rows = 4000;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  Keys frequent;
  for (int64_t key = 0; key < 1000; ++key) frequent.push_back(key);
  for (int i = 0; i < 5; ++i) TFPS_CHECK(Add(rows.get(), frequent, 1).ok());
  // Rows that come once each, twenty thousand of them: none of those that came five times goes.
  for (int64_t update = 0; update < 400; ++update) {
    Keys keys;
    for (int64_t i = 0; i < 50; ++i) keys.push_back(10'000 + update * 50 + i);
    TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  }
  TFPS_CHECK(rows->Counts().rows <= 4000 && rows->Counts().evicted >= 17'000);
  for (int64_t key : frequent) TFPS_CHECK(Read(*rows, 0, {key})[0] == 5);
}

TFPS_TEST_OF_MANY(ABudgetOfBytesHoldsForMillionsOfNewIds) {
  for (auto kind : {Eviction::Kind::kLeastRecent, Eviction::Kind::kNone}) {
    GrowingOptions options = WithEviction(8, kind);
    options.eviction.max_bytes = 12'000'000;
    const Rows rows = ValueOf(MakeGrowingRows(options));
    (void)ValueOf(rows->AddColumn(8, 0));
    int64_t most_rows = 0;
    const int64_t updates = kind == Eviction::Kind::kNone ? 100 : 1000;
    for (int64_t update = 0; update < updates; ++update) {
      Keys keys;
      for (int64_t i = 0; i < 2000; ++i) keys.push_back((update * 2000 + i) * 1'000'003);
      TFPS_CHECK(Add(rows.get(), keys, 1).ok());
      TFPS_CHECK(rows->Counts().bytes <= 12'000'000);
      most_rows = std::max(most_rows, rows->Counts().rows);
    }
    const GrowthCounts counts = rows->Counts();
    // The budget is used: a row has 64 bytes of floats and about 20 more.
    TFPS_CHECK(most_rows > 120'000 && counts.rows > 110'000);
    TFPS_CHECK(counts.rows == static_cast<int64_t>(StoredKeys(*rows).size()));
    TFPS_CHECK(counts.admitted + counts.refused == updates * 2000);
    if (kind == Eviction::Kind::kNone) {
      TFPS_CHECK(counts.evicted == 0 && counts.over_budget == counts.refused && counts.refused > 40'000);
    } else {
      TFPS_CHECK(counts.refused < 2000 && counts.evicted > 1'800'000);
    }
  }
}

TFPS_TEST_OF_MANY(PinnedRowsStayAndSoDoRowsUnderWay) {
  GrowingOptions options = WithEviction(2, Eviction::Kind::kLeastRecent);
  options.eviction.max_rows = 1000;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  TFPS_CHECK(Add(rows.get(), {1, 2, 3}, 1).ok());
  rows->Pin(Of({2, 4}), true);                 // stored, and not stored yet
  TFPS_CHECK(Add(rows.get(), {4}, 1).ok());
  const auto flood = [&](int64_t first) {
    for (int64_t update = 0; update < 100; ++update) {
      Keys keys;
      for (int64_t i = 0; i < 50; ++i) keys.push_back(first + update * 50 + i);
      TFPS_CHECK(Add(rows.get(), keys, 1).ok());
    }
  };
  flood(1000);
  TFPS_CHECK(Read(*rows, 0, {1, 2, 3, 4}) == (std::vector<float>{0, 0, 1, 1, 0, 0, 1, 1}));
  rows->Pin(Of({2, 4}), false);
  flood(100'000);
  TFPS_CHECK(Read(*rows, 0, {2, 4}) == std::vector<float>(4, 0.0f));
  // A step asks for the oldest row; before its update comes others fill the table.
  const int64_t oldest = StoredKeys(*rows).front();
  std::vector<float> out(2);
  TFPS_CHECK(rows->Copy(0, Of({oldest}), true, out.data(), InCallersThread).ok() && out[0] == 1);
  Keys keys;
  for (int64_t i = 0; i < 100; ++i) keys.push_back(500'000 + i);
  TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  TFPS_CHECK(Read(*rows, 0, {oldest})[0] == 1);
}

TFPS_TEST(WhereAllRowsAreUnderWayNewOnesAreRefusedAndCounted) {
  GrowingOptions options = WithEviction(2, Eviction::Kind::kLeastRecent);
  options.eviction.max_rows = 100;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  Keys keys;
  for (int64_t key = 0; key < 150; ++key) keys.push_back(key);
  TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  TFPS_CHECK(rows->Counts().rows == 100 && rows->Counts().over_budget == 50 && rows->Counts().refused == 50);
}

TFPS_TEST(AssignedRowsMayExceedTheBudgetAndUpdatesEvictDownToIt) {
  GrowingOptions options = WithEviction(2, Eviction::Kind::kLeastRecent);
  options.eviction.max_rows = 100;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  Keys keys;
  for (int64_t key = 0; key < 300; ++key) keys.push_back(key);
  TFPS_CHECK(rows->Assign(0, Of(keys), std::vector<float>(600, 1.0f).data()).ok());
  // A checkpoint of more rows is restored whole.
  TFPS_CHECK(rows->Counts().rows == 300 && StoredKeys(*rows) == keys);
  for (int i = 0; i < 200; ++i) TFPS_CHECK(Add(rows.get(), {5000 + i % 3}, 1).ok());
  TFPS_CHECK(rows->Counts().rows <= 100 && Read(*rows, 0, {5000})[0] > 1);
}

TFPS_TEST(WithoutEvictionAssignedRowsStayAndNewKeysAreRefused) {
  GrowingOptions options = WithEviction(2, Eviction::Kind::kNone);
  options.eviction.max_rows = 10;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  Keys keys;
  for (int64_t key = 0; key < 30; ++key) keys.push_back(key);
  TFPS_CHECK(rows->Assign(0, Of(keys), std::vector<float>(60, 1.0f).data()).ok());
  TFPS_CHECK(Add(rows.get(), {3, 99}, 1).ok());
  TFPS_CHECK(rows->Counts().rows == 30 && rows->Counts().over_budget == 1 && Read(*rows, 0, {3})[0] == 2);
}

TFPS_TEST(AgesAndScoresComeBackAsTheyWereSaved) {
  GrowingOptions options = WithEviction(2, Eviction::Kind::kUnseen);
  options.eviction.steps = 10'000;
  double now = 50;
  options.now = [&now] { return now; };
  const Rows rows = ValueOf(MakeGrowingRows(options));
  const Keys keys = {1, 2, 3, 4};
  const std::vector<float> values(8, 1.0f);
  const RowMeta meta[] = {{0, 0, 0}, {100, 20, 0}, {5000, 900, 0}, {20'000, 1e6f, 0}};
  TFPS_CHECK(rows->Assign(0, Of(keys), values.data()).ok());
  rows->AssignMeta(Of(keys), meta);
  const GrowingChunk chunk = ValueOf(rows->Scan({0}, 0, 10));
  for (size_t i = 0; i < 4; ++i) {
    const RowMeta& saved = meta[chunk.rows.keys[i] - 1];
    TFPS_CHECK(chunk.meta[i].idle_updates == saved.idle_updates);
    TFPS_CHECK(std::fabs(chunk.meta[i].idle_seconds - saved.idle_seconds) <= 1e-3 * saved.idle_seconds);
  }
  rows->Evict(kAll);
  TFPS_CHECK(StoredKeys(*rows) == (Keys{1, 2, 3}));  // 20,000 is beyond the horizon
  for (int i = 0; i < 6000; ++i) TFPS_CHECK(Add(rows.get(), {1}, 1).ok());
  rows->Evict(kAll);
  TFPS_CHECK(StoredKeys(*rows) == (Keys{1, 2}));     // 5000 + 6000, too
}

TFPS_TEST(ManyAgesAreRestoredToOnePartIn32AndNeverTooOld) {
  GrowingOptions options = WithEviction(1, Eviction::Kind::kLeastRecent);
  options.eviction.max_rows = 100'000;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  Random random(8);
  Keys keys;
  std::vector<RowMeta> meta;
  for (int64_t key = 0; key < 20'000; ++key) {
    keys.push_back(key);
    meta.push_back({static_cast<int64_t>(std::pow(10.0, static_cast<double>(random.Integer(0, 9000)) / 1000)), 0, 0});
  }
  TFPS_CHECK(rows->Assign(0, Of(keys), std::vector<float>(keys.size()).data()).ok());
  rows->AssignMeta(Of(keys), meta.data());
  for (int64_t cursor = 0; cursor != RowStore::kEnd;) {
    const GrowingChunk chunk = ValueOf(rows->Scan({0}, cursor, 5000));
    for (size_t i = 0; i < chunk.rows.keys.size(); ++i) {
      const double saved = static_cast<double>(meta[chunk.rows.keys[i]].idle_updates);
      const double got = static_cast<double>(chunk.meta[i].idle_updates);
      TFPS_CHECK(got <= saved && got >= saved * (1 - 1.0 / 30) - 1);
    }
    cursor = chunk.rows.cursor;
  }
}

}  // namespace
}  // namespace tfps
