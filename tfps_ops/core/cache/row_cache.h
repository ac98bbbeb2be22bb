// Rows that a worker keeps: a set of rows of one width with a bounded number of places, each with the time when it was fetched and
// the number of times it was used since.
//
// Places are in buckets of 16, and the hash of a key chooses the bucket, so the memory is fixed and nothing is linked. A row stays
// when it may not be used any more: if it is asked for again, it is fetched and stored in its place.
//
// Which rows are kept: those that steps ask for most. Each row in a place has a count of the steps that asked for it. A row
// without a place is counted in a sketch; it takes the place of the row of its bucket with the smallest count, once its own count
// is larger. So rows that are seen once sweep nothing out. Age() halves all counts from time to time.
#ifndef TFPS_OPS_CORE_CACHE_ROW_CACHE_H_
#define TFPS_OPS_CORE_CACHE_ROW_CACHE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "tfps_ops/core/cache/frequency_sketch.h"

namespace tfps {

// A row of a table. Tables have numbers, at least 0, so that tables of one width share a cache.
struct CacheKey {
  int32_t table = 0;
  int64_t id = 0;
};

// Until when a copy of a row may be used.
struct Freshness {
  int64_t oldest = 0;      // it was fetched then or later
  int64_t most_uses = 0;   // Find has returned it fewer times than this since
};

// Threads: one at a time. Cost: a call reads one bucket, of 7 cache lines, and copies a row. Memory of a row: its floats and 25 bytes,
// and what the sketch has.
class RowCache {
 public:
  // For at least `rows` rows (rounded up to a multiple of 16) of `dim` floats.
  RowCache(int64_t rows, int64_t dim);

  // Counts that a step asks for a key. If its row is there and fresh, counts a use, copies it to `row`, [dim], and returns true.
  bool Find(CacheKey key, const Freshness& fresh, float* row);

  // Keeps a row that was fetched at a time, [dim], if it is asked for often enough. Call it after a Find that has returned false.
  void Store(CacheKey key, int64_t fetched, const float* row);

  // Halves all counts.
  void Age();

  int64_t places() const { return static_cast<int64_t>(buckets_.size()) * kWays; }
  int64_t dim() const { return dim_; }

 private:
  static constexpr int kWays = 16;
  static constexpr int32_t kFree = -1;  // the table of a place without a row

  struct Bucket {
    Bucket() { tables.fill(kFree); }
    std::array<int64_t, kWays> ids = {};
    std::array<int64_t, kWays> fetched = {};
    std::array<int32_t, kWays> tables;
    std::array<int32_t, kWays> uses = {};
    std::array<uint8_t, kWays> counts = {};
  };

  static uint64_t WordOf(CacheKey key);
  int64_t BucketOf(uint64_t word) const { return static_cast<int64_t>(((word >> 32) * buckets_.size()) >> 32); }
  // The place of a key in its bucket; -1 where it has none.
  static int PlaceOf(const Bucket& bucket, CacheKey key);
  // The place that a new row would take: a free one, else that with the smallest count, and the oldest of these.
  static int PlaceToTake(const Bucket& bucket);
  float* RowAt(int64_t bucket, int place) { return rows_.get() + (bucket * kWays + place) * dim_; }

  const int64_t dim_;
  std::vector<Bucket> buckets_;
  FrequencySketch others_;
  // Not initialized: pages that hold no row take no memory.
  std::unique_ptr<float[]> rows_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_CACHE_ROW_CACHE_H_
