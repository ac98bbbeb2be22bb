#include "tfps_ops/core/cache/row_cache.h"

#include <algorithm>
#include <cstring>

namespace tfps {
namespace {

// A counter of the sketch for each row that comes once between two calls of Age, and for more where the cache is large.
constexpr int64_t kFewestCounters = int64_t{1} << 20;
constexpr int64_t kCountersARow = 8;

// The finalizer of MurmurHash3.
uint64_t Scramble(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCD;
  x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53;
  return x ^ (x >> 33);
}

}  // namespace

RowCache::RowCache(int64_t rows, int64_t dim)
    : dim_(dim),
      buckets_((rows + kWays - 1) / kWays),
      others_(std::max(kFewestCounters, kCountersARow * rows)),
      rows_(new float[places() * dim]) {}

uint64_t RowCache::WordOf(CacheKey key) {
  // Ids of all tables begin with 0, so the table is hashed before the id is added.
  return Scramble(Scramble(static_cast<uint64_t>(key.table) + 1) + static_cast<uint64_t>(key.id));
}

int RowCache::PlaceOf(const Bucket& bucket, CacheKey key) {
  for (int place = 0; place < kWays; ++place) {
    if (bucket.ids[place] == key.id && bucket.tables[place] == key.table) return place;
  }
  return -1;
}

int RowCache::PlaceToTake(const Bucket& bucket) {
  int best = 0;
  for (int place = 0; place < kWays; ++place) {
    if (bucket.tables[place] == kFree) return place;
    const bool less = bucket.counts[place] < bucket.counts[best];
    const bool equal = bucket.counts[place] == bucket.counts[best];
    if (less || (equal && bucket.fetched[place] < bucket.fetched[best])) best = place;
  }
  return best;
}

bool RowCache::Find(CacheKey key, const Freshness& fresh, float* row) {
  const int64_t at = BucketOf(WordOf(key));
  Bucket& bucket = buckets_[at];
  const int place = PlaceOf(bucket, key);
  // Store counts the keys that have no place, because only it needs their counts.
  if (place < 0) return false;
  // A step asks for a row once, so this counts steps. At the limit it stays.
  bucket.counts[place] = static_cast<uint8_t>(std::min(bucket.counts[place] + 1, FrequencySketch::kMaxCount));
  if (bucket.fetched[place] < fresh.oldest || bucket.uses[place] >= fresh.most_uses) return false;
  ++bucket.uses[place];
  std::memcpy(row, RowAt(at, place), dim_ * sizeof(float));
  return true;
}

void RowCache::Store(CacheKey key, int64_t fetched, const float* row) {
  const uint64_t word = WordOf(key);
  const int64_t at = BucketOf(word);
  Bucket& bucket = buckets_[at];
  int place = PlaceOf(bucket, key);
  if (place < 0) {
    const int count = others_.Increment(word);
    place = PlaceToTake(bucket);
    if (bucket.tables[place] != kFree) {
      if (count <= bucket.counts[place]) return;
      // The row that goes keeps its count, so that it can come back.
      others_.Raise(WordOf({bucket.tables[place], bucket.ids[place]}), bucket.counts[place]);
    }
    bucket.ids[place] = key.id;
    bucket.tables[place] = key.table;
    bucket.counts[place] = static_cast<uint8_t>(count);
  } else if (fetched < bucket.fetched[place]) {
    // Another thread has stored a newer copy meanwhile.
    return;
  }
  bucket.fetched[place] = fetched;
  bucket.uses[place] = 0;
  std::memcpy(RowAt(at, place), row, dim_ * sizeof(float));
}

void RowCache::Age() {
  for (Bucket& bucket : buckets_) {
    for (uint8_t& count : bucket.counts) count >>= 1;
  }
  others_.Halve();
}

}  // namespace tfps
