#include "tfps_ops/core/growing/eviction_walk.h"

#include <algorithm>
#include <cmath>

namespace tfps {

// Once a slice and not once a row: the history has a mutex, and to search it takes a logarithm of its records.
EvictionWalk::Criterion EvictionWalk::MakeCriterion() const {
  Criterion criterion;
  criterion.history = parts_.clock.History();
  // A lookup near the end of a tick and the update that follows it may be in two ticks, so the one before is safe, too.
  criterion.first_safe_tick = parts_.clock.tick() - 1;
  // A time before the table's first record gives tick 0: then no row is old enough.
  const Eviction& rule = parts_.options.eviction;
  if (rule.steps > 0) criterion.rule_tick = criterion.history->LastUntilUpdates(parts_.clock.updates() - rule.steps);
  if (parts_.IsKind(Eviction::Kind::kUnseen) && rule.seconds > 0) {
    const uint32_t tick = criterion.history->LastUntilSeconds(parts_.clock.now() - rule.seconds);
    criterion.rule_tick = std::max(criterion.rule_tick, tick);
  }
  return criterion;
}

bool EvictionWalk::GoesByRule(const Segment& segment, const uint8_t* block, const Criterion& criterion) const {
  const Eviction& rule = parts_.options.eviction;
  switch (rule.kind) {
    case Eviction::Kind::kUnseen:
      return segment.layout->Tick(block) <= criterion.rule_tick;
    case Eviction::Kind::kScore:
      return parts_.ScoreNow(segment, block, criterion.history.get()) < rule.threshold;
    case Eviction::Kind::kSmallNorm: {
      // Rows that are new are small because nothing has trained them yet.
      if (TableParts::BirthTick(segment, block) > criterion.rule_tick) return false;
      // A number at a time: the row may be bfloat16, and the walk has no room for a copy.
      const BlockLayout::Column& column = segment.layout->columns[0];
      const uint8_t* row = block + column.offset;
      double squares = 0;
      for (int64_t j = 0; j < column.width; ++j) {
        float value;
        WidenRow(row + j * BytesOf(column.storage), column.storage, 1, &value);
        squares += static_cast<double>(value) * value;
      }
      // Squares against squares: no root for each row.
      return squares < rule.threshold * rule.threshold;
    }
    default:
      return false;
  }
}

bool EvictionWalk::Goes(const Segment& segment, const uint8_t* block, const Criterion& criterion) const {
  const uint32_t tick = segment.layout->Tick(block);
  // Before all else: what is under way stays even at a full budget. The new key is refused then.
  if (tick >= criterion.first_safe_tick) return false;
  if ((BlockLayout::Read<uint64_t>(block) & Segment::kPinned) != 0) return false;
  if (criterion.pressed) {
    // At the threshold, too, and not only below it: where most rows have one score (1 update, say) none lies below.
    if (!ByScore() && tick <= criterion.pressed_tick) return true;
    if (ByScore() && parts_.ScoreNow(segment, block, criterion.history.get()) <= criterion.pressed_score) return true;
  }
  return GoesByRule(segment, block, criterion);
}

// From the last block to the first: where a row goes the last one takes its place, and that one has been visited.
int64_t EvictionWalk::VisitSegment(Segment* segment, int64_t visits, const Criterion& criterion,
                                   const std::function<bool()>& is_enough) {
  const std::lock_guard<SpinLock> lock(segment->lock());
  const int64_t count = segment->count();
  // The hand may stand beyond the end: rows may have been removed since the lock was given back.
  if (hand_left_ < 0 || hand_left_ > count) hand_left_ = count;
  int64_t visited = 0;
  while (hand_left_ > 0 && visited < visits) {
    ++visited;
    const int block = static_cast<int>(--hand_left_);
    if (!Goes(*segment, segment->Block(block), criterion)) continue;
    // Its number is now that of the last row, which the hand has passed already.
    parts_.RemoveRow(segment, block);
    parts_.evicted.fetch_add(1, std::memory_order_relaxed);
    // Asked after each row that goes, so that a table at its budget loses no more rows than it must.
    if (is_enough && is_enough()) break;
  }
  return visited;
}

int64_t EvictionWalk::Walk(int64_t visits, const Criterion& criterion, const std::function<bool()>& is_enough) {
  int64_t visited = 0;
  // An empty table, too, has an end.
  for (int rounds = 0; visited < visits && rounds <= Segment::kSegments;) {
    Segment* segment = &parts_.segments[hand_segment_];
    // At most 512 rows a hold: lookups in this segment wait for some microseconds, not for 65,536 rows.
    visited += VisitSegment(segment, std::min(kVisitsALock, visits - visited), criterion, is_enough);
    if (is_enough && is_enough()) break;
    // The segment goes on from where the hand is, after others had a turn with its lock.
    if (hand_left_ > 0) continue;
    hand_segment_ = (hand_segment_ + 1) % Segment::kSegments;
    if (hand_segment_ == 0) round_rows_ = parts_.rows.load(std::memory_order_relaxed);
    hand_left_ = -1;
    ++rounds;
  }
  return visited;
}

int64_t EvictionWalk::Evict(int64_t max_rows) {
  if (parts_.IsKind(Eviction::Kind::kNone) || max_rows < 1) return 0;
  parts_.clock.CatchUp();
  const int64_t before = parts_.evicted.load(std::memory_order_relaxed);
  // Before the lock: MakeRoom takes it.
  if (!HasRoom(0)) MakeRoom(0);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (HasRule()) Walk(std::min(max_rows, parts_.rows.load(std::memory_order_relaxed)), MakeCriterion(), nullptr);
  return parts_.evicted.load(std::memory_order_relaxed) - before;
}

double EvictionWalk::SliceOfUpdate() {
  const Eviction& rule = parts_.options.eviction;
  // Where each row visited goes the table is smaller at every update; by its size alone the hand would never come round.
  const int64_t rows = std::max(round_rows_, parts_.rows.load(std::memory_order_relaxed));
  const double rounds = static_cast<double>(kRounds) * static_cast<double>(rows);
  double slice = 0;
  // For example 8 rounds of 1,000,000 rows in 80,000 steps: 100 rows an update.
  if (rule.steps > 0) slice += rounds / static_cast<double>(rule.steps);
  if (rule.seconds > 0) {
    const double now = parts_.clock.now();
    // By the time that has passed and not by update, as nobody knows how many updates a second has.
    if (last_slice_ >= 0) slice += rounds * std::max(0.0, now - last_slice_) / rule.seconds;
    last_slice_ = now;
  }
  return slice;
}

void EvictionWalk::AfterUpdate() {
  if (parts_.IsKind(Eviction::Kind::kNone)) return;
  // More columns, or a log, may have taken a table beyond its budget.
  if (!HasRoom(0)) MakeRoom(0);
  if (!HasRule()) return;
  // Somebody else is walking: the hand moves.
  // To wait would make the updates of all threads as slow as one walk.
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  // No more than a round is owed.
  const int64_t rows = std::max<int64_t>(round_rows_, parts_.rows.load(std::memory_order_relaxed));
  // Credit is kept in fractions: a small table owes less than a row an update, and must not stand still.
  credit_ = std::min(credit_ + SliceOfUpdate(), static_cast<double>(rows));
  // What is beyond a slice stays as credit, and the next updates pay it: no single update waits for long.
  const int64_t visits = std::min(static_cast<int64_t>(credit_), kVisitsASlice);
  if (visits < 1) return;
  credit_ -= static_cast<double>(Walk(visits, MakeCriterion(), nullptr));
}

// Room for the rows and for the growth of the chunks and indices that they may lie in.
bool EvictionWalk::HasRoom(int64_t rows) const {
  const Eviction& rule = parts_.options.eviction;
  if (rule.max_rows > 0 && parts_.rows.load(std::memory_order_relaxed) + rows > rule.max_rows) return false;
  if (rule.max_bytes == 0) return true;
  const int64_t row_bytes = parts_.block_bytes.load(std::memory_order_relaxed) + 8;
  // 64 rows more: a chunk grows by up to 32 blocks at a time. The last term is for indices that are made anew meanwhile. With
  // rows = 0 the question is only whether the budget is exceeded now.
  const int64_t room = rows == 0 ? 0 : (rows + 64) * row_bytes + std::min<int64_t>(1 << 20, rule.max_bytes / 256);
  return parts_.memory.bytes() + room <= rule.max_bytes;
}

void EvictionWalk::SampleSegment(const Segment& segment, const Criterion& criterion, int64_t most) {
  const std::lock_guard<SpinLock> lock(segment.lock());
  const int64_t count = segment.count();
  sample_seed_ = sample_seed_ * 6364136223846793005 + 1442695040888963407;
  // Not from the first block on: blocks lie in the order in which rows came, so the first ones would be the oldest.
  int64_t block = count <= most ? 0 : static_cast<int64_t>((sample_seed_ >> 33) % static_cast<uint64_t>(count));
  for (int64_t i = 0; i < std::min(count, most); ++i, block = block + 1 == count ? 0 : block + 1) {
    const uint8_t* at = segment.Block(static_cast<int>(block));
    const uint32_t tick = segment.layout->Tick(at);
    // Rows that may not go would lift the threshold above rows that should stay.
    if (tick >= criterion.first_safe_tick || (BlockLayout::Read<uint64_t>(at) & Segment::kPinned) != 0) continue;
    sample_.emplace_back(ByScore() ? parts_.ScoreNow(segment, at, criterion.history.get()) : 0.0f, tick);
  }
}

bool EvictionWalk::Press(Criterion* criterion) {
  sample_.clear();
  const int64_t rows = std::max<int64_t>(1, parts_.rows.load(std::memory_order_relaxed));
  // Small tables are taken whole, large ones some rows from some segments.
  // 16 rows that follow each other cost few fetches more than one; 64 segments of them are a sample.
  const int64_t most = rows <= kSample ? Segment::kMaxBlocks : 16;
  // A linear congruential generator (Knuth, MMIX), of which the upper bits are the good ones.
  sample_seed_ = sample_seed_ * 6364136223846793005 + 1442695040888963407;
  const int first = static_cast<int>(sample_seed_ >> 52);
  for (int i = 0; i < Segment::kSegments && static_cast<int64_t>(sample_.size()) < kSample; ++i) {
    SampleSegment(parts_.segments[(first + i) % Segment::kSegments], *criterion, most);
  }
  // Every row is under way or pinned.
  if (sample_.empty()) return false;
  // Of 1,024 rows the 64 lowest lie below this one. A sixteenth is a compromise: a smaller part would make the hand visit more
  // rows for each that goes, a larger one would take rows that matter more.
  const auto at = sample_.begin() + static_cast<int64_t>(sample_.size()) / kPart;
  // Scores are all 0 where ticks count.
  std::nth_element(sample_.begin(), at, sample_.end());
  criterion->pressed = true;
  criterion->pressed_score = at->first;
  criterion->pressed_tick = at->second;
  // Half of the rows that the threshold stands for. To use up all of them would send the hand to search for the last few.
  pressure_left_ = std::max<int64_t>(1, rows / kPart / 2);
  return true;
}

void EvictionWalk::MakeRoom(int64_t rows) {
  if (parts_.IsKind(Eviction::Kind::kNone)) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto has_room = [this, rows] { return HasRoom(rows); };
  int64_t visits = kVisitsForRoom;
  while (visits > 0 && !has_room()) {
    Criterion criterion = MakeCriterion();
    // The thresholds outlive a call: most calls want room for a few rows, and a sample is dear.
    criterion.pressed = pressure_.pressed, criterion.pressed_tick = pressure_.pressed_tick;
    criterion.pressed_score = pressure_.pressed_score;
    if (pressure_left_ <= 0) {
      if (!Press(&criterion)) return;
      pressure_ = criterion;
      visits -= 4 * kSample;  // what a sample costs
    }
    const int64_t before = parts_.evicted.load(std::memory_order_relaxed);
    // 1,024 rows at a time, of which 64 should go; then the thresholds are looked at again.
    const int64_t visited = Walk(std::min<int64_t>(visits, 64 * kPart), criterion, has_room);
    const int64_t went = parts_.evicted.load(std::memory_order_relaxed) - before;
    // Where fewer go than the thresholds promise, they are too old.
    // Promised is 1 in 16; at less than 1 in 64 a new sample pays.
    pressure_left_ = went * 4 * kPart < visited ? 0 : pressure_left_ - went;
    // At least 1, so that a table where nothing can be visited does not hold the loop.
    visits -= std::max<int64_t>(visited, 1);
  }
}

}  // namespace tfps
