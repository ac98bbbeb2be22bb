#include "tfps_ops/core/growing/table_parts.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace tfps {
namespace {

// Ticks tell ages apart to 1 part in 64 of the horizon.
constexpr int64_t kTicksOfHorizon = 64;
// Rows that were touched in the present tick or the one before are not evicted, so that a step which has asked for them finds
// them when it comes back; these are so many updates, unless that would be most of a small table.
constexpr int64_t kUpdatesUnderWay = 16;
constexpr int64_t kPartUnderWay = 8;  // of the budget
// Rows that went are remembered for at least so many entries of the log.
constexpr int64_t kLogEntries = 1'000'000;
// What the log may take of a budget of bytes.
constexpr int64_t kLogPart = 8;

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

TickClock::Pace PaceOf(const GrowingOptions& options) {
  const Eviction& rule = options.eviction;
  TickClock::Pace pace;
  // Only these two ask for ages in steps or seconds; kScore counts periods.
  const bool aged = rule.kind == Eviction::Kind::kUnseen || rule.kind == Eviction::Kind::kSmallNorm;
  // For example 6,400 steps: a tick each 100 updates.
  if (aged && rule.steps > 0) pace.updates = std::max<int64_t>(1, rule.steps / kTicksOfHorizon);
  if (rule.kind == Eviction::Kind::kUnseen) pace.seconds = rule.seconds / kTicksOfHorizon;
  if (rule.kind == Eviction::Kind::kScore) pace.score_steps = rule.steps;
  pace.ages_in_seconds = rule.kind == Eviction::Kind::kUnseen && rule.steps == 0;
  if (rule.kind != Eviction::Kind::kNone && (rule.max_rows > 0 || rule.max_bytes > 0)) {
    // With a budget the two safe ticks must be short, or no row could go.
    pace.updates = pace.updates == 0 ? kUpdatesUnderWay : std::min(pace.updates, kUpdatesUnderWay);
    // About what the bytes have room for without slots: for dim 8 and 1 GB, 21 million rows.
    const int64_t rows_of_bytes = rule.max_bytes / (4 * options.dim + 16);
    const int64_t most = rule.max_rows == 0 || (rule.max_bytes > 0 && rows_of_bytes < rule.max_rows) ? rows_of_bytes
                                                                                                       : rule.max_rows;
    pace.touches = std::max<int64_t>(1, most / kPartUnderWay);
  }
  return pace;
}

}  // namespace

TableParts::TableParts(const GrowingOptions& options)
    : options(options),
      mix(options.hash_seed),
      segments(new Segment[Segment::kSegments]),
      memory(options.eviction.max_bytes),
      clock(PaceOf(options), options.now ? options.now : SteadySeconds) {
  // Taken whatever the budget is; MakeGrowingRows refuses budgets that an empty table half fills.
  memory.Take(Segment::kSegments * static_cast<int64_t>(sizeof(Segment)) + static_cast<int64_t>(sizeof(*this)));
}

bool TableParts::ReserveRow() {
  const int64_t most = options.eviction.max_rows;
  int64_t before = rows.load(std::memory_order_relaxed);
  // Not added first and taken back: whoever counts rows meanwhile would see too many.
  do {
    if (most > 0 && before >= most && !memory.beyond()) return false;
  } while (!rows.compare_exchange_weak(before, before + 1, std::memory_order_relaxed));
  return true;
}

uint64_t TableParts::WordOf(const Segment& segment, int block) const {
  return static_cast<uint64_t>(&segment - segments.get()) << Segment::kWordBits | segment.LowWord(block);
}

Segment::Outcome TableParts::MakeRow(Segment* segment, uint64_t word) {
  // The count first: two threads that insert in two segments could otherwise both take the last row of the budget.
  if (!ReserveRow()) return Segment::Outcome::kNoRoom;
  const Segment::Outcome outcome = segment->Insert(word, &memory);
  // The row that was reserved is given back, as others may have a segment with room.
  if (outcome != Segment::Outcome::kDone) {
    rows.fetch_sub(1, std::memory_order_relaxed);
    return outcome;
  }
  const BlockLayout& layout = *segment->layout;
  uint8_t* block = segment->Block(segment->count() - 1);
  // The block may have been another row's: every part of it is written.
  if (options.storage == Storage::kFloat32) {
    WriteFirstValue(options.first, mix.KeyOf(word), options.dim, layout.Floats(block, 0));
  } else {
    std::vector<float> first(options.dim);
    WriteFirstValue(options.first, mix.KeyOf(word), options.dim, first.data());
    layout.Write(block, 0, first.data());
  }
  for (size_t c = 1; c < layout.columns.size(); ++c) layout.Reset(block, static_cast<int>(c));
  const uint32_t tick = clock.tick();
  layout.SetTick(block, tick);
  // Ticks only rise, and the lock is held, so the newest is the present one.
  segment->newest_tick = tick;
  // The caller adds the gain of the update that made the row.
  layout.SetScore(block, 0);
  if (IsKind(Eviction::Kind::kSmallNorm)) SetBirthTick(*segment, block, tick);
  // Without pinned keys no mutex. Pin raises the count before it takes this segment's lock, so either this sees the key or Pin
  // finds the row.
  if (pinned_count.load(std::memory_order_relaxed) > 0) {
    // Under the lock of the segment, by the order of locks at TableParts.
    const std::lock_guard<std::mutex> lock(pinned_mutex);
    const uint64_t flagged = (word & Segment::kWordMask) | Segment::kPinned;
    if (pinned.count(word) > 0) std::memcpy(block, &flagged, sizeof(flagged));
  }
  return outcome;
}

void TableParts::RemoveRow(Segment* segment, int block) {
  // Before Erase, after which another row has this number.
  const uint64_t word = WordOf(*segment, block);
  segment->Erase(block, &memory);
  rows.fetch_sub(1, std::memory_order_relaxed);
  // After Erase, as cleaning the log drops the keys that it finds stored.
  if (recording.load(std::memory_order_relaxed)) LogGone(segment, word);
}

void TableParts::LogGone(Segment* segment, uint64_t word) {
  if (segment->gone == nullptr) {
    segment->gone = new GoneLog();
    memory.Take(static_cast<int64_t>(sizeof(GoneLog)) + TableMemory::kOverhead);
  }
  // The tick is read under the lock of the segment, for the reason that TickClock::tick gives.
  segment->gone->Add(word, clock.tick(), &memory);
  // Each segment has its part of the bound. Keys are spread evenly.
  int64_t limit = std::max(kLogEntries, rows.load(std::memory_order_relaxed)) / Segment::kSegments;
  // 16 bytes for an entry of 12: the list grows by a quarter at a time.
  if (memory.max_bytes() > 0) limit = std::min(limit, memory.max_bytes() / kLogPart / 16 / Segment::kSegments + 1);
  const auto is_stored = [segment](uint64_t w) { return segment->Find(w) != Segment::kNone; };
  const uint32_t dropped = segment->gone->Trim(limit, is_stored, &memory);
  // The largest tick of all segments; other segments are trimmed at the same time.
  uint32_t before = forgotten_tick.load();
  while (before < dropped && !forgotten_tick.compare_exchange_weak(before, dropped)) {
  }
}

std::shared_ptr<const TickHistory> TableParts::HistoryForScores() const {
  return IsKind(Eviction::Kind::kScore) ? clock.History() : nullptr;
}

double TableParts::DecaySince(uint32_t tick, const TickHistory* history) const {
  if (history == nullptr || tick == clock.tick()) return 1;
  // No record: the tick ended after the history was taken, a moment ago.
  const TickRecord* record = history->Of(tick);
  // For example decay 0.98 and 3 periods: a score of 10 counts as 9.41.
  const int64_t periods = record == nullptr ? 0 : clock.period() - record->period;
  return periods == 0 ? 1 : std::pow(options.eviction.decay, static_cast<double>(periods));
}

void TableParts::Touch(Segment* segment, uint8_t* block, const TickHistory* history) {
  const BlockLayout& layout = *segment->layout;
  // A table without eviction has no ticks until changes are recorded.
  if (layout.tick_offset == 0) return;
  const uint32_t tick = clock.tick(), before = layout.Tick(block);
  // Most touches of a hot row end here and write nothing.
  if (before == tick) return;
  // The score is as of the tick that is written now.
  if (history != nullptr) layout.SetScore(block, static_cast<float>(layout.Score(block) * DecaySince(before, history)));
  layout.SetTick(block, tick);
  segment->newest_tick = tick;
}

float TableParts::Gain() const {
  if (IsKind(Eviction::Kind::kLeastFrequent)) return 1;
  // kSmallNorm has a tick where others have a score: nothing may be added to it.
  return IsKind(Eviction::Kind::kScore) ? static_cast<float>(options.eviction.gain) : 0;
}

void TableParts::AddScore(const Segment& segment, uint8_t* block, float amount) const {
  segment.layout->SetScore(block, segment.layout->Score(block) + amount);
}

float TableParts::ScoreNow(const Segment& segment, const uint8_t* block, const TickHistory* history) const {
  // Scores decay when they are read: to multiply all of them each period would be a pass over the table.
  return static_cast<float>(segment.layout->Score(block) * DecaySince(segment.layout->Tick(block), history));
}

uint32_t TableParts::BirthTick(const Segment& segment, const uint8_t* block) {
  return BlockLayout::Read<uint32_t>(block + segment.layout->score_offset);
}

void TableParts::SetBirthTick(const Segment& segment, uint8_t* block, uint32_t tick) const {
  std::memcpy(block + segment.layout->score_offset, &tick, sizeof(tick));
}

}  // namespace tfps
