// The list is looked at once an update at most, and only where something is watched; watching is rare. So one mutex and a
// plain hash map do.
#include "tfps_ops/stores/variable_observers.h"

namespace tfps {

namespace tf = ::tensorflow;

VariableObservers& VariableObservers::OfProcess() {
  static VariableObservers* observers = new VariableObservers;
  return *observers;
}

void VariableObservers::Watch(tf::Var* var) {
  tf::mutex_lock lock(mutex_);
  if (entries_.count(var) > 0) return;
  // The weak pointer calls back while the variable is destroyed, and holds no lock then.
  // `var` is captured as a key only, and never followed there.
  Entry entry{tf::core::WeakPtr<tf::Var>(var, [this, var] { Forget(var); }), std::make_shared<TouchedRows>()};
  entries_.emplace(var, std::move(entry));
  watched_.store(entries_.size(), std::memory_order_relaxed);
}

std::shared_ptr<TouchedRows> VariableObservers::FindInList(const tf::Var* var) {
  tf::tf_shared_lock lock(mutex_);
  const auto found = entries_.find(var);
  return found == entries_.end() ? nullptr : found->second.touched;
}

void VariableObservers::Forget(const tf::Var* var) {
  tf::mutex_lock lock(mutex_);
  // Updates that are under way share the record, so it goes with the last of them.
  entries_.erase(var);
  watched_.store(entries_.size(), std::memory_order_relaxed);
}

}  // namespace tfps
