#include "tfps_ops/core/growing/tick_clock.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace tfps {
namespace {

// Ages that are saved or that decide an eviction are right to this part.
constexpr double kPrecision = 1.0 / 32;

// Leaves out records that say little: those between whose neighbours there is less than 1/32 of their age.
std::vector<TickRecord> Thinned(const std::vector<TickRecord>& records) {
  const TickRecord& last = records.back();
  std::vector<TickRecord> kept;
  for (size_t i = 0; i < records.size(); ++i) {
    // The younger half stays whole: its ticks are those that rules and readers ask for.
    const bool recent = i + records.size() / 2 >= records.size();
    if (kept.empty() || recent) {
      kept.push_back(records[i]);
      continue;
    }
    const TickRecord &before = kept.back(), &after = records[i + 1];
    // For example records at 100, 110 and 120 updates where the last is at 1,000: 20 is below 880 / 32, so the middle
    // one goes, if its seconds are as near.
    const bool near = after.updates - before.updates <= kPrecision * (last.updates - after.updates) &&
                      after.seconds - before.seconds <= kPrecision * (last.seconds - after.seconds);
    if (!near) kept.push_back(records[i]);
  }
  return kept;
}

}  // namespace

const TickRecord* TickHistory::Of(uint32_t tick) const {
  // Records ascend in ticks, updates and seconds at once, so each of these searches is by bisection.
  const auto at = std::partition_point(records_.begin(), records_.end(), [&](const TickRecord& r) { return r.tick < tick; });
  // A record that was thinned out is stood for by a later one, so the age is too small by 1 part in 32 and never too large.
  return at == records_.end() ? nullptr : &*at;
}

uint32_t TickHistory::LastUntilUpdates(int64_t updates) const {
  const auto later = std::partition_point(records_.begin(), records_.end(),
                                          [&](const TickRecord& r) { return r.updates <= updates; });
  return later == records_.begin() ? 0 : (later - 1)->tick;
}

uint32_t TickHistory::LastUntilSeconds(double seconds) const {
  const auto later = std::partition_point(records_.begin(), records_.end(),
                                          [&](const TickRecord& r) { return r.seconds <= seconds; });
  return later == records_.begin() ? 0 : (later - 1)->tick;
}

uint32_t TickHistory::FirstFromUpdates(int64_t updates) const {
  const auto at = std::partition_point(records_.begin(), records_.end(),
                                       [&](const TickRecord& r) { return r.updates < updates; });
  return at == records_.end() ? 0 : at->tick;
}

uint32_t TickHistory::FirstFromSeconds(double seconds) const {
  const auto at = std::partition_point(records_.begin(), records_.end(),
                                       [&](const TickRecord& r) { return r.seconds < seconds; });
  return at == records_.end() ? 0 : at->tick;
}

// The clock is an argument so that tests can move it.
TickClock::TickClock(const Pace& pace, std::function<double()> now)
    : pace_(pace), now_(std::move(now)), begin_seconds_(now_()) {
  last_touch_ = tick_seconds_ = begin_seconds_;
  history_ = std::make_shared<TickHistory>(std::vector<TickRecord>());
}

void TickClock::WillTouch(int64_t rows) {
  // Without the mutex: each training lookup and each update comes here.
  touches_.fetch_add(rows, std::memory_order_relaxed);
  last_touch_updates_.store(updates(), std::memory_order_relaxed);
  last_touch_.store(now(), std::memory_order_relaxed);
}

bool TickClock::IsDue(double now) const {
  const int64_t updates = this->updates();
  // Whichever limit is met first; 0 turns a limit off.
  if (pace_.updates > 0 && updates - tick_updates_ >= pace_.updates) return true;
  if (pace_.seconds > 0 && now - tick_seconds_ >= pace_.seconds) return true;
  // Large batches may touch an eighth of a small table in few updates; without this all of its rows would be under way.
  if (pace_.touches > 0 && touches_.load(std::memory_order_relaxed) >= pace_.touches) return true;
  return pace_.score_steps > 0 && updates / pace_.score_steps > period();
}

void TickClock::CountUpdate() {
  // The rows of this update were touched before it is counted; the record of the tick must not be older than they are.
  last_touch_updates_.store(updates_.fetch_add(1, std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  const double now = this->now();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (IsDue(now)) EndTickLocked(now);
}

void TickClock::CatchUp() {
  const double now = this->now();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!IsDue(now)) return;
  // Rows of the tick before the present one are safe. After a pause a single end of a tick would leave those of the last step
  // safe although nobody has come for two ticks.
  const bool for_long = pace_.seconds > 0 && now - tick_seconds_ >= 2 * pace_.seconds;
  EndTickLocked(now);
  if (for_long) EndTickLocked(now);
}

uint32_t TickClock::EndTick() {
  const double now = this->now();
  const std::lock_guard<std::mutex> lock(mutex_);
  return EndTickLocked(now);
}

uint32_t TickClock::EndTickLocked(double now) {
  const uint32_t ended = tick();
  TickRecord record{ended, last_touch_updates_.load(std::memory_order_relaxed), last_touch_.load(std::memory_order_relaxed),
                    period()};
  // A copy, at most 32 kB a tick: walks and updates read the old history without a lock until they are done.
  std::vector<TickRecord> records = history_->records();
  if (!records.empty()) {
    // Ages must not rise from one tick to the next; threads may have stored their touches in another order.
    record.updates = std::max(record.updates, records.back().updates);
    record.seconds = std::max(record.seconds, records.back().seconds);
  }
  records.push_back(record);
  Publish(std::move(records));
  // After the record, which has the period of the tick that ends. Ticks end where periods do, so the tick of
  // a block tells its period.
  if (pace_.score_steps > 0) period_.store(updates() / pace_.score_steps, std::memory_order_relaxed);
  touches_.store(0, std::memory_order_relaxed);
  tick_updates_ = updates();
  tick_seconds_ = now;
  // Last, and under the mutex: whoever sees the new tick and then takes the history finds the record of the old one.
  tick_.store(ended + 1, std::memory_order_relaxed);
  return ended;
}

void TickClock::Publish(std::vector<TickRecord> records) {
  // A search takes some 10 comparisons, however old the table is.
  if (records.size() >= kManyRecords) records = Thinned(records);
  history_ = std::make_shared<TickHistory>(std::move(records));
}

// Shared, so that a reader keeps its history while a new one takes its place.
std::shared_ptr<const TickHistory> TickClock::History() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return history_;
}

uint32_t TickClock::RecordBefore(double age, TickRecord record) {
  // Number j from the end of these ticks is for ages up to (33/32)^j: 1,022 of them reach to 4 * 10^13 updates or seconds. Age
  // 1,000 is j = 225.
  const double j = std::ceil(std::log(std::max(1.0, age)) / std::log1p(kPrecision));
  record.tick = kFirstTick - 1 - static_cast<uint32_t>(std::min<double>(j, kFirstTick - 2));
  std::vector<TickRecord> records = history_->records();
  const auto at = std::partition_point(records.begin(), records.end(),
                                       [&](const TickRecord& r) { return r.tick < record.tick; });
  // Records ascend in everything, and rows that share one have the age of the youngest.
  if (at != records.begin()) {
    record.updates = std::max(record.updates, (at - 1)->updates);
    record.seconds = std::max(record.seconds, (at - 1)->seconds);
  }
  const bool there = at != records.end() && at->tick == record.tick;
  const auto next = there ? at + 1 : at;
  if (there) record.updates = std::max(record.updates, at->updates), record.seconds = std::max(record.seconds, at->seconds);
  // Searches by updates and by seconds both need ascending records; the two ages of a row may disagree with its neighbours'.
  if (next != records.end()) {
    record.updates = std::min(record.updates, next->updates);
    record.seconds = std::min(record.seconds, next->seconds);
  }
  if (there) *at = record;
  else records.insert(at, record);
  // Not thinned: they are at most as many as there are ticks before the table.
  history_ = std::make_shared<TickHistory>(std::move(records));
  return record.tick;
}

uint32_t TickClock::TickOfAge(int64_t idle_updates, double idle_seconds) {
  const double now = this->now();
  const std::lock_guard<std::mutex> lock(mutex_);
  // Where a row of a checkpoint is older than this table its update number is negative: 5 - 100 = -95.
  const TickRecord record{0, updates() - idle_updates, now - idle_seconds, 0};
  const double before = pace_.ages_in_seconds ? begin_seconds_ - record.seconds : -static_cast<double>(record.updates);
  if (before > 0) return RecordBefore(before, record);
  // The first tick whose last touch is at that time or later: the row may seem younger than it is, never older.
  const uint32_t tick = pace_.ages_in_seconds ? history_->FirstFromSeconds(record.seconds)
                                              : history_->FirstFromUpdates(record.updates);
  // No record: the tick has not ended. One before the table: it begins with the first tick.
  return tick == 0 ? this->tick() : std::max(tick, kFirstTick);
}

}  // namespace tfps
