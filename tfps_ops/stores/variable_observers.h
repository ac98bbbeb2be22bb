// The observers of tf.Variables: which of them are watched, and by what.
//
// tf::Var has no place for an observer, so they are kept beside it, in one list a process. The list has a weak reference to
// each variable. When the variable goes, the list forgets it before its memory can become another variable.
#ifndef TFPS_OPS_STORES_VARIABLE_OBSERVERS_H_
#define TFPS_OPS_STORES_VARIABLE_OBSERVERS_H_

#include <atomic>
#include <memory>
#include <unordered_map>

#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/platform/mutex.h"
#include "tfps_ops/core/stores/touched_rows.h"

namespace tfps {

// Threads: any number may call at a time.
// Cost: nothing but Find is on the path of a step.
class VariableObservers {
 public:
  // The list of this process. It is never destroyed: variables may outlive the static objects of the library.
  static VariableObservers& OfProcess();

  // Begins to watch `var`, unless it is watched already. The caller holds the exclusive lock of `var`, so that an update
  // that comes after this call has seen it, though Find loads the count without order.
  void Watch(::tensorflow::Var* var);

  // The rows touched since `var` is watched, or null if nobody watches it. The caller holds a lock of `var`, shared or
  // exclusive. Cost if no variable of the process is watched: one relaxed load; else a lock and a hash lookup.
  std::shared_ptr<TouchedRows> Find(const ::tensorflow::Var* var) {
    if (watched_.load(std::memory_order_relaxed) == 0) return nullptr;
    return FindInList(var);
  }

 private:
  struct Entry {
    ::tensorflow::core::WeakPtr<::tensorflow::Var> var;  // tells when the variable goes
    std::shared_ptr<TouchedRows> touched;                // shared with updates that are under way
  };

  VariableObservers() = default;
  std::shared_ptr<TouchedRows> FindInList(const ::tensorflow::Var* var);
  void Forget(const ::tensorflow::Var* var);

  std::atomic<int64_t> watched_{0};  // the size of entries_, for a look without the lock
  ::tensorflow::mutex mutex_;        // guards entries_
  std::unordered_map<const ::tensorflow::Var*, Entry> entries_;
};

}  // namespace tfps

#endif  // TFPS_OPS_STORES_VARIABLE_OBSERVERS_H_
