#include "tfps_ops/core/cache/worker_cache.h"

#include <map>
#include <thread>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

using Key = std::pair<int32_t, int64_t>;

// The rows of a step. A row is its table, its id, and the step in which it was fetched.
struct Step {
  std::vector<int64_t> ids;
  CacheQuery query;
};

void Fill(Random* random, int64_t dim, Step* step) {
  step->query.dim = dim;
  for (int32_t table = 0; table < 3; ++table) {
    std::map<int64_t, int> unique;
    for (int64_t i = random->Integer(0, 40); i > 0; --i) unique[random->Integer(0, 60)] = 1;
    step->query.segments.push_back({table, static_cast<int64_t>(unique.size())});
    for (const auto& [id, one] : unique) step->ids.push_back(id);
  }
  step->query.ids = step->ids.data();
}

// The key of each row.
std::vector<Key> KeysOf(const Step& step) {
  std::vector<Key> keys;
  for (const auto& [table, rows] : step.query.segments) {
    for (int64_t i = 0; i < rows; ++i) keys.push_back({table, step.ids[keys.size()]});
  }
  return keys;
}

// What the twin knows of a row: the step in which it was fetched, and the updates that steps have made of it since.
struct Copy {
  int64_t fetched = 0;
  int64_t missed = 0;
};

std::vector<float> RowOf(const Key& key, int64_t fetched, int64_t dim) {
  std::vector<float> row(dim, static_cast<float>(fetched));
  row[0] = static_cast<float>(key.first);
  row[1] = static_cast<float>(key.second);
  return row;
}

TFPS_TEST(StepsFindWhatADictionaryOfTimesSays) {
  const std::vector<std::pair<int64_t, int64_t>> limits = {{0, 9}, {9, 0}, {1, 9}, {3, 1}, {10, 2}, {10, 10}};
  for (const auto& [max_staleness, max_missed] : limits) {
    Random random(static_cast<int>(max_staleness));
    WorkerCache cache(4096, max_staleness);
    std::map<int64_t, std::map<Key, Copy>> fetched_of_width;
    int64_t version = 0, asked = 0, found = 0, bytes = 0;
    for (int64_t time = 0; time < 300; ++time) {
      if (random.Integer(0, 30) == 0) {
        // Rows were assigned.
        cache.Open(++version, max_missed);
        fetched_of_width.clear();
      } else {
        cache.Open(version, max_missed);
      }
      cache.BeginStep();
      for (int64_t dim : {3, 8}) {
        Step step;
        Fill(&random, dim, &step);
        const std::vector<Key> keys = KeysOf(step);
        std::map<Key, Copy>& fetched = fetched_of_width[dim];
        std::vector<float> rows(keys.size() * dim, -1.0f);
        std::vector<int32_t> missing, expected;
        const CacheMoment moment = cache.Find(step.query, rows.data(), &missing);
        for (size_t place = 0; place < keys.size(); ++place) {
          const auto at = fetched.find(keys[place]);
          if (max_staleness == 0 || at == fetched.end() || time - at->second.fetched > max_staleness ||
              at->second.missed == max_missed) {
            expected.push_back(static_cast<int32_t>(place));
            fetched[keys[place]] = {time, 0};
            continue;
          }
          ++at->second.missed;
          const std::vector<float> row = RowOf(keys[place], at->second.fetched, dim);
          TFPS_CHECK(std::equal(row.begin(), row.end(), rows.begin() + place * dim));
          ++found;
          bytes += 8 + 4 * dim;
        }
        asked += static_cast<int64_t>(keys.size());
        TFPS_CHECK(missing == expected);
        std::vector<float> answer;
        for (int32_t place : missing) {
          const std::vector<float> row = RowOf(keys[place], time, dim);
          answer.insert(answer.end(), row.begin(), row.end());
        }
        cache.Store(step.query, moment, missing.data(), static_cast<int64_t>(missing.size()), answer.data());
      }
    }
    const CacheCounts counts = cache.TakeCounts();
    TFPS_CHECK(counts.asked == asked && counts.found == found && counts.saved_bytes == bytes);
    TFPS_CHECK((found > 0) == (max_staleness > 0 && max_missed > 0));
    TFPS_CHECK(cache.TakeCounts().asked == 0);
  }
}

TFPS_TEST(RowsThatWereRequestedBeforeAnAssignmentAreNotKept) {
  WorkerCache cache(16, 5);
  cache.Open(0, 5);
  const int64_t id = 4;
  const CacheQuery query{{{0, 1}}, &id, 2};
  std::vector<float> row = {1, 2};
  std::vector<int32_t> missing;
  const CacheMoment moment = cache.Find(query, row.data(), &missing);
  cache.Open(1, 5);
  cache.Store(query, moment, missing.data(), 1, row.data());
  missing.clear();
  cache.Find(query, row.data(), &missing);
  TFPS_CHECK(missing.size() == 1);
}

TFPS_TEST(ThreadsSeeWholeRowsThatAreNotTooOld) {
  constexpr int64_t kDim = 8, kMaxStaleness = 4;
  WorkerCache cache(64, kMaxStaleness);
  cache.Open(0, 3);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&cache, t] {
      Random random(t);
      for (int i = 0; i < 400; ++i) {
        if (t == 0) cache.BeginStep();
        if (t == 1 && i % 50 == 0) cache.Open(i, 3);
        Step step;
        Fill(&random, kDim, &step);
        const std::vector<Key> keys = KeysOf(step);
        std::vector<float> rows(keys.size() * kDim);
        std::vector<int32_t> missing;
        const CacheMoment moment = cache.Find(step.query, rows.data(), &missing);
        size_t next = 0;
        std::vector<float> answer;
        for (size_t place = 0; place < keys.size(); ++place) {
          if (next < missing.size() && missing[next] == static_cast<int32_t>(place)) {
            const std::vector<float> row = RowOf(keys[place], moment.step, kDim);
            answer.insert(answer.end(), row.begin(), row.end());
            ++next;
            continue;
          }
          const float* row = rows.data() + place * kDim;
          TFPS_CHECK(row[0] == keys[place].first && row[1] == keys[place].second);
          TFPS_CHECK(row[2] >= moment.step - kMaxStaleness && row[2] == row[kDim - 1]);
        }
        cache.Store(step.query, moment, missing.data(), static_cast<int64_t>(missing.size()), answer.data());
        cache.TakeCounts();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace tfps
