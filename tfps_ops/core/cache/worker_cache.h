// The row caches of one worker, one for each width of rows, and the clock by which they tell the age of a row: the worker's steps.
//
// A step asks for the rows of its unique ids. Find copies those that are kept and fresh, and says which are missing; the worker
// fetches these from the servers, and Store keeps them. A row is fresh for `max_staleness` steps: one that was fetched in step 7
// is used up to step 7 + max_staleness. Each step that uses a row also pushes an update of it, which the copy lacks. So a row is also
// fresh for `max_missed` uses alone: a row of every step is fetched again after a few, a rarer one after max_staleness steps.
// Pushes do not pass through the cache, so the servers miss no update.
//
// The clock of a row, which HET (Miao et al., VLDB 2022) keeps on both sides, is thus its count of uses here. It is not sent along
// to ask the server whether the row has changed: a worker updates each row that it uses, so the answer is always that it has.
// The *version* here is of all rows: the chief raises it whenever rows
// change in another way than by updates (they are assigned or restored) and when a call of `fit` begins. No row of another
// version is used.
#ifndef TFPS_OPS_CORE_CACHE_WORKER_CACHE_H_
#define TFPS_OPS_CORE_CACHE_WORKER_CACHE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tfps_ops/core/cache/row_cache.h"

namespace tfps {

// Rows that a step asks for, in the order of the answer of the servers; nothing is owned.
// Example: segments {{7, 2}, {9, 1}} and ids [4, 2, 4] are the rows 4 and 2 of table 7 and row 4 of table 9.
struct CacheQuery {
  struct Segment {
    int32_t table = 0;
    int64_t rows = 0;
  };
  std::vector<Segment> segments;
  const int64_t* ids = nullptr;  // [rows of all segments]
  int64_t dim = 0;
};

// The moment of a Find. Store needs it, because a row is as old as its request.
struct CacheMoment {
  int64_t version = 0;
  int64_t step = 0;
};

struct CacheCounts {
  int64_t asked = 0;        // rows that steps asked for
  int64_t found = 0;        // those of them that were kept and fresh
  int64_t saved_bytes = 0;  // of the ids and rows that did not cross
};

// Threads: any; one lock, held while the keys of one call are looked up and their rows copied.
class WorkerCache {
 public:
  // Keeps `rows` rows of each width. With a max_staleness of 0 it finds none.
  WorkerCache(int64_t rows, int64_t max_staleness) : rows_(rows), max_staleness_(max_staleness) {}

  // A closure begins: rows of another version are not used any more, and a row is used `max_missed` times, maybe never. The chief
  // lets models that were trained for long use rows more often.
  void Open(int64_t version, int64_t max_missed);
  // A step begins, before its first Find.
  void BeginStep();

  // Copies the rows that are fresh to their places in `rows`, [all rows, dim], and appends the places of the others to `missing`.
  CacheMoment Find(const CacheQuery& query, float* rows, std::vector<int32_t>* missing);
  // Keeps rows, [missing, dim], which were fetched for a query after its Find.
  void Store(const CacheQuery& query, const CacheMoment& moment, const int32_t* missing, int64_t count, const float* rows);

  // The counts since the last call.
  CacheCounts TakeCounts();

 private:
  RowCache& CacheOf(int64_t dim);

  const int64_t rows_, max_staleness_;
  std::mutex lock_;
  // All of the following is guarded by `lock_`.
  int64_t version_ = 0;
  int64_t max_missed_ = 0;
  int64_t step_ = 0;
  int64_t opened_ = 0;  // the step from which on rows are of this version
  std::map<int64_t, std::unique_ptr<RowCache>> caches_;
  CacheCounts counts_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_CACHE_WORKER_CACHE_H_
