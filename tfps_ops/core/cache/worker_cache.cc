#include "tfps_ops/core/cache/worker_cache.h"

#include <algorithm>
#include <utility>

namespace tfps {
namespace {

// Steps after which counts are halved: a row of every step then has a count of 128 to 255, which is what a counter can hold, and a row
// of every hundredth step is told from one that came once.
constexpr int64_t kStepsOfAge = 128;

// Calls visit(table, place) for each row of a query.
template <class Visit>
void ForEachRow(const CacheQuery& query, const Visit& visit) {
  int64_t place = 0;
  for (const CacheQuery::Segment& segment : query.segments) {
    for (const int64_t end = place + segment.rows; place < end; ++place) visit(segment.table, place);
  }
}

}  // namespace

RowCache& WorkerCache::CacheOf(int64_t dim) {
  std::unique_ptr<RowCache>& cache = caches_[dim];
  if (cache == nullptr) cache = std::make_unique<RowCache>(rows_, dim);
  return *cache;
}

void WorkerCache::Open(int64_t version, int64_t max_missed) {
  const std::lock_guard<std::mutex> lock(lock_);
  max_missed_ = max_missed;
  if (version == version_) return;
  version_ = version;
  // The counts stay: the rows that are asked for most are the same. A step of its own keeps what was fetched before apart.
  opened_ = ++step_;
}

void WorkerCache::BeginStep() {
  const std::lock_guard<std::mutex> lock(lock_);
  if (++step_ % kStepsOfAge != 0) return;
  for (auto& [dim, cache] : caches_) cache->Age();
}

CacheMoment WorkerCache::Find(const CacheQuery& query, float* rows, std::vector<int32_t>* missing) {
  const std::lock_guard<std::mutex> lock(lock_);
  RowCache& cache = CacheOf(query.dim);
  const Freshness fresh{std::max(opened_, step_ - max_staleness_), max_staleness_ == 0 ? 0 : max_missed_};
  const size_t before = missing->size();
  int64_t asked = 0;
  ForEachRow(query, [&](int32_t table, int64_t place) {
    ++asked;
    if (!cache.Find({table, query.ids[place]}, fresh, rows + place * query.dim)) {
      missing->push_back(static_cast<int32_t>(place));
    }
  });
  const int64_t found = asked - static_cast<int64_t>(missing->size() - before);
  counts_.asked += asked;
  counts_.found += found;
  counts_.saved_bytes += found * static_cast<int64_t>(sizeof(int64_t) + query.dim * sizeof(float));
  return {version_, step_};
}

void WorkerCache::Store(const CacheQuery& query, const CacheMoment& moment, const int32_t* missing, int64_t count,
                        const float* rows) {
  const std::lock_guard<std::mutex> lock(lock_);
  // Rows that were requested before an assignment may be from before it.
  if (moment.version != version_) return;
  RowCache& cache = CacheOf(query.dim);
  int64_t next = 0;
  // Both are in the order of places.
  ForEachRow(query, [&](int32_t table, int64_t place) {
    if (next == count || missing[next] != place) return;
    cache.Store({table, query.ids[place]}, moment.step, rows + next * query.dim);
    ++next;
  });
}

CacheCounts WorkerCache::TakeCounts() {
  const std::lock_guard<std::mutex> lock(lock_);
  return std::exchange(counts_, CacheCounts());
}

}  // namespace tfps
