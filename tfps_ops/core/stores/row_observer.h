// Someone who wants to know which rows of a store are updated.
//
// Exports of changes, delta checkpoints and eviction all need that. None of them is known to a store: it tells an observer,
// and what the observer does with it is its own affair.
#ifndef TFPS_OPS_CORE_STORES_ROW_OBSERVER_H_
#define TFPS_OPS_CORE_STORES_ROW_OBSERVER_H_

#include <cstdint>

namespace tfps {

// Ownership: a store does not own its observer and must not call it after it is gone; whoever attaches an observer to a
// store sees to that. Cost: a store without an observer spends one test of a pointer or one relaxed load on each update.
class RowObserver {
 public:
  virtual ~RowObserver() = default;

  // Called once after each update, with the rows that it has written, [count], each in [0, rows of the store).
  // Threads: the store calls it while it holds the exclusive lock of these rows. So whoever hears of a row and then reads
  // it sees at least this update. A store with several locks may call from several threads at once. An observer must not
  // call the store back: the lock is not recursive. `rows` is valid during the call only.
  virtual void OnUpdate(const int64_t* rows, int64_t count) = 0;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_STORES_ROW_OBSERVER_H_
