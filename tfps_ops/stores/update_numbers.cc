#include "tfps_ops/stores/update_numbers.h"

namespace tfps {

namespace tf = ::tensorflow;

UpdateNumbers& UpdateNumbers::OfProcess() {
  static UpdateNumbers* numbers = new UpdateNumbers;
  return *numbers;
}

uint64_t UpdateNumbers::Next(tf::Var* var) {
  tf::mutex_lock lock(mutex_);
  auto found = entries_.find(var);
  if (found == entries_.end()) {
    // The weak pointer calls back while the variable is destroyed, and holds no lock then: its memory may become another
    // variable's, which begins at 0.
    Entry entry{tf::core::WeakPtr<tf::Var>(var, [this, var] { Forget(var); })};
    found = entries_.emplace(var, std::move(entry)).first;
  }
  return found->second.next++;
}

void UpdateNumbers::Forget(const tf::Var* var) {
  tf::mutex_lock lock(mutex_);
  entries_.erase(var);
}

}  // namespace tfps
