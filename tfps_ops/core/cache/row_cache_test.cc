#include "tfps_ops/core/cache/row_cache.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

constexpr int64_t kDim = 3;
constexpr Freshness kAlways{0, INT64_MAX};

struct Stored {
  int64_t fetched = 0;
  int64_t uses = 0;
  std::vector<float> row;
};

// As `CacheKey` for a map.
using Key = std::pair<int32_t, int64_t>;

// Ids of both ends of int64, as tables that grow have them, and several tables.
CacheKey RandomKey(Random* random, int64_t ids) {
  const auto table = static_cast<int32_t>(random->Integer(0, 3));
  const int64_t id = random->Integer(0, ids);
  return {table, id % 7 == 0 ? INT64_MIN + id : id};
}

TFPS_TEST(ALargeCacheIsADictionary) {
  Random random(2);
  RowCache cache(1 << 14, kDim);
  std::map<Key, Stored> twin;
  std::vector<float> row(kDim);
  int hits = 0;
  for (int64_t time = 0; time < 30'000; ++time) {
    const CacheKey key = RandomKey(&random, 500);
    const int64_t oldest = time - random.Integer(0, 4000);
    const auto expected = twin.find({key.table, key.id});
    const int64_t most_uses = random.Integer(0, 20);
    const bool fresh =
        expected != twin.end() && expected->second.fetched >= oldest && expected->second.uses < most_uses;
    TFPS_CHECK(cache.Find(key, {oldest, most_uses}, row.data()) == fresh);
    if (fresh) {
      TFPS_CHECK(row == expected->second.row);
      ++expected->second.uses;
      ++hits;
    } else {
      const Stored stored{time, 0, random.Floats(kDim)};
      cache.Store(key, time, stored.row.data());
      twin[{key.table, key.id}] = stored;
    }
  }
  TFPS_CHECK(hits > 2000 && hits < 29'000);
}

TFPS_TEST(ASmallCacheForgetsRowsAndNeverMixesThem) {
  Random random(3);
  RowCache cache(32, kDim);
  TFPS_CHECK(cache.places() == 32);
  std::map<Key, Stored> twin;
  std::vector<float> row(kDim);
  std::set<Key> found;
  for (int64_t time = 0; time < 30'000; ++time) {
    const CacheKey key = RandomKey(&random, 40);
    if (cache.Find(key, {time - 100, 1000}, row.data())) {
      const Stored& last = twin.at({key.table, key.id});
      TFPS_CHECK(last.fetched >= time - 100 && row == last.row);
      found.insert({key.table, key.id});
    } else {
      const Stored stored{time, 0, random.Floats(kDim)};
      cache.Store(key, time, stored.row.data());
      twin[{key.table, key.id}] = stored;
    }
    if (time % 1000 == 0) cache.Age();
  }
  TFPS_CHECK(!found.empty());
}

// The rate of hits of a cache whose rows stay fresh, for steps that ask for popular rows and for rows that come once.
TFPS_TEST(RowsThatComeOnceSweepNothingOut) {
  RowCache cache(64, kDim);
  const std::vector<float> row(kDim, 1.0f);
  std::vector<float> out(kDim);
  int64_t next = 1000, hits = 0, asked = 0;
  for (int step = 0; step < 300; ++step) {
    if (step % 128 == 127) cache.Age();
    const auto ask = [&](int64_t id, bool counted) {
      const bool hit = cache.Find({0, id}, kAlways, out.data());
      if (!hit) cache.Store({0, id}, step, row.data());
      if (counted && step >= 20) {
        ++asked;
        hits += hit;
      }
    };
    for (int64_t id = 0; id < 32; ++id) ask(id, true);
    for (int i = 0; i < 500; ++i) ask(next++, false);
  }
  TFPS_CHECK(hits > 0.97 * asked);
}

TFPS_TEST(WhatBecomesPopularTakesThePlaceOfWhatWas) {
  RowCache cache(64, kDim);
  const std::vector<float> row(kDim, 1.0f);
  std::vector<float> out(kDim);
  const auto run = [&](int64_t first, int steps) {
    int64_t hits = 0;
    for (int step = 0; step < steps; ++step) {
      if (step % 128 == 127) cache.Age();
      for (int64_t id = first; id < first + 48; ++id) {
        const bool hit = cache.Find({0, id}, kAlways, out.data());
        if (!hit) cache.Store({0, id}, step, row.data());
        hits += hit;
      }
    }
    return hits;
  };
  run(0, 500);
  run(10'000, 1000);
  // Some buckets have more of the 48 than places, so not all of them have one.
  TFPS_CHECK(run(10'000, 10) > 0.9 * 480);
}

TFPS_TEST(AnOlderCopyDoesNotReplaceANewerOne) {
  RowCache cache(16, 1);
  const float newer = 2, older = 1;
  float out = 0;
  cache.Store({0, 5}, 10, &newer);
  cache.Store({0, 5}, 9, &older);
  TFPS_CHECK(cache.Find({0, 5}, {10, 9}, &out) && out == 2);
  TFPS_CHECK(!cache.Find({0, 5}, {11, 9}, &out));
  TFPS_CHECK(!cache.Find({1, 5}, {0, 9}, &out));
}

}  // namespace
}  // namespace tfps
