// The number of each update of a tf.Variable whose rows are rounded at random (core/rows/storage.h): what makes a run repeatable.
//
// tf::Var has no place for it, so the numbers are kept beside it, as variable_observers.h keeps observers.
#ifndef TFPS_OPS_STORES_UPDATE_NUMBERS_H_
#define TFPS_OPS_STORES_UPDATE_NUMBERS_H_

#include <cstdint>
#include <unordered_map>

#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/platform/mutex.h"

namespace tfps {

// Threads: any number may call at a time.
class UpdateNumbers {
 public:
  // Those of this process; never destroyed, as variables may outlive the static objects of the library.
  static UpdateNumbers& OfProcess();

  // 0 for the first call with `var`, then 1, and so on. Cost: a lock and a hash lookup, once for an update of a table.
  uint64_t Next(::tensorflow::Var* var);

 private:
  struct Entry {
    ::tensorflow::core::WeakPtr<::tensorflow::Var> var;  // tells when the variable goes
    uint64_t next = 0;
  };

  UpdateNumbers() = default;
  void Forget(const ::tensorflow::Var* var);

  ::tensorflow::mutex mutex_;  // guards entries_
  std::unordered_map<const ::tensorflow::Var*, Entry> entries_;
};

}  // namespace tfps

#endif  // TFPS_OPS_STORES_UPDATE_NUMBERS_H_
