// Time as a table counts it: ticks, and what each stands for in updates and in seconds.
//
// A block has room for one number that says when it was touched last, its tick. A tick ends when a reader asks what has changed
// (Since), and as often as the eviction rule needs to tell ages apart. For each tick that has ended there is a record of the
// last touch in it, so an age that follows from a tick is never more than the true one, and a row never goes too early.
//
// Records: all of the latest kManyRecords / 2, at least; older ones are thinned out so that ages stay right to 1 part in 32.
// Ages that are restored may lie before the table: ticks below kFirstTick are kept for them, each with an age 1/32 above the
// one before.
#ifndef TFPS_OPS_CORE_GROWING_TICK_CLOCK_H_
#define TFPS_OPS_CORE_GROWING_TICK_CLOCK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace tfps {

struct TickRecord {
  uint32_t tick = 0;
  int64_t updates = 0;  // of the table, up to the last touch in the tick
  double seconds = 0;   // of that touch
  int64_t period = 0;   // how many whole periods of `score_steps` updates had passed
};

// Records by ascending tick, not changed any more.
class TickHistory {
 public:
  explicit TickHistory(std::vector<TickRecord> records) : records_(std::move(records)) {}

  // The record that stands for a tick: its own, or the next later one that was kept; null for a tick that has not ended.
  const TickRecord* Of(uint32_t tick) const;
  // The latest tick of which the last touch was at `updates` or before; 0 if there is none. The other for seconds.
  uint32_t LastUntilUpdates(int64_t updates) const;
  uint32_t LastUntilSeconds(double seconds) const;
  // The first tick of which the last touch was at that time or later; 0 if there is none.
  uint32_t FirstFromUpdates(int64_t updates) const;
  uint32_t FirstFromSeconds(double seconds) const;

  const std::vector<TickRecord>& records() const { return records_; }

 private:
  std::vector<TickRecord> records_;
};

class TickClock {
 public:
  // 0 is "no tick", which blocks have that were made before the table had ticks.
  static constexpr uint32_t kFirstTick = 1024;

  // When ticks end by themselves; 0: not for this reason.
  struct Pace {
    int64_t updates = 0;
    double seconds = 0;
    int64_t touches = 0;      // of rows, in one tick
    int64_t score_steps = 0;  // ticks end at the multiples of this many updates, and a period does
    bool ages_in_seconds = false;  // whether what is restored of an age is its seconds, and not its updates
  };

  TickClock(const Pace& pace, std::function<double()> now);

  // To be read under the lock of the segment whose block is stamped: then a reader that ends the tick and looks at the segment
  // afterwards sees the touch, or the touch has a later tick.
  uint32_t tick() const { return tick_.load(std::memory_order_relaxed); }
  int64_t updates() const { return updates_.load(std::memory_order_relaxed); }
  double now() const { return now_(); }
  // Periods that have ended, for the scores of blocks that are touched now.
  int64_t period() const { return period_.load(std::memory_order_relaxed); }

  // Before rows are touched, so that the tick's record is not older than they are.
  void WillTouch(int64_t rows);
  // After an update of the table: counts it, and ends the tick if it is time.
  void CountUpdate();
  // Ends the tick if it is due, and a second one if it is long overdue: for tables that get no updates.
  void CatchUp();
  // Ends the tick and returns it.
  uint32_t EndTick();

  std::shared_ptr<const TickHistory> History() const;
  // The tick that stands for an age, for restored rows.
  uint32_t TickOfAge(int64_t idle_updates, double idle_seconds);

 private:
  static constexpr size_t kManyRecords = 1024;

  bool IsDue(double now) const;  // the lock is held
  uint32_t EndTickLocked(double now);
  void Publish(std::vector<TickRecord> records);
  // The tick before the table for something that was touched so long (updates or seconds) before the table's begin, with its
  // record; the lock is held.
  uint32_t RecordBefore(double age, TickRecord record);

  const Pace pace_;
  const std::function<double()> now_;
  const double begin_seconds_;
  // Atomic to be read without the mutex; written under it alone.
  std::atomic<uint32_t> tick_{kFirstTick};
  std::atomic<int64_t> updates_{0};
  std::atomic<int64_t> period_{0};
  std::atomic<int64_t> touches_{0};          // rows touched in the tick
  std::atomic<double> last_touch_{0};        // when, in seconds
  std::atomic<int64_t> last_touch_updates_{0};
  mutable std::mutex mutex_;                  // guards what follows
  int64_t tick_updates_ = 0;                  // updates and seconds when the tick began
  double tick_seconds_ = 0;
  std::shared_ptr<const TickHistory> history_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_TICK_CLOCK_H_
