// The row caches of a worker as a resource: what the handle of TfpsRowCache refers to.
//
// The resource has a name in the worker's own resource manager, so all graphs of one model share it, and it outlives a closure.
// A worker that was replaced makes it anew, and empty, when its first closure opens it.
#ifndef TFPS_OPS_STORES_CACHE_RESOURCE_H_
#define TFPS_OPS_STORES_CACHE_RESOURCE_H_

#include <string>

#include "tensorflow/core/framework/resource_base.h"
#include "tfps_ops/core/cache/worker_cache.h"

namespace tfps {

// Threads: any; the cache has a lock.
class CacheResource : public ::tensorflow::ResourceBase {
 public:
  CacheResource(int64_t rows, int64_t max_staleness) : cache_(rows, max_staleness) {}

  WorkerCache& cache() { return cache_; }
  std::string DebugString() const override { return "the cached rows of a worker"; }

 private:
  WorkerCache cache_;
};

}  // namespace tfps

#endif  // TFPS_OPS_STORES_CACHE_RESOURCE_H_
