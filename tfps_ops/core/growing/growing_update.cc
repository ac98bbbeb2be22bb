// Updates: where rows are made.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>

#include "tfps_ops/core/growing/growing_table.h"
#include "tfps_ops/core/growing/key_pipeline.h"

namespace tfps {
namespace {

// What ParallelFor divides the work by; too large a number would wake threads for a few rows.
constexpr int64_t kNanosecondsARow = 80;  // two fetches, several of which are under way at a time, and the lock

}  // namespace

// What the ranges of an update share.
// One object by reference, so that the calls for a row have few arguments.
struct GrowingTable::UpdateCall {
  UpdateCall(const std::vector<int>& columns, const RowUpdater& updater, const RowKeys& keys, const RowGradients& gradients)
      : columns(columns), updater(updater), keys(keys), gradients(gradients) {}

  const std::vector<int>& columns;
  const RowUpdater& updater;
  const RowKeys& keys;
  const RowGradients& gradients;
  int64_t width = 0;
  int64_t number = 0;  // of the update
  float gain = 0;
  std::shared_ptr<const TickHistory> history;
  bool is_floats = true;  // whether all columns are
  uint64_t rounding = 0;  // the number of the update for RoundingDraw
  float prepared[kMaxHyperparameters] = {};
  // One of them, for the message: ranges run on several threads.
  std::atomic<int64_t> full_key{0};  // a key whose segment has all the rows it can have
  std::atomic<bool> is_full{false};

  // A delta to a slot alone (GEO) must not make a row whose own value nobody has sent.
  bool MakesRows() const { return columns[0] == 0; }
};

Status GrowingTable::CheckUpdate(const std::vector<int>& columns, const RowUpdater& updater) const {
  if (static_cast<int>(columns.size()) != 1 + updater.slots()) {
    return InvalidArgument("`columns` must name a column and ", updater.slots(), " slots of the optimizer. Received: ",
                           columns.size(), " columns.");
  }
  for (size_t c = 0; c < columns.size(); ++c) {
    TFPS_RETURN_IF_ERROR(CheckColumn(columns[c]));
    const auto first = columns.begin(), here = first + static_cast<int64_t>(c);
    // A rule that got one column twice would read a slot that it has just overwritten.
    if (std::find(first, here, columns[c]) != here) {
      return InvalidArgument("`columns` must be different from each other. Received: ", columns[c], " twice.");
    }
    if (c == 0) continue;
    const int64_t wanted = updater.SlotWidth(static_cast<int>(c) - 1, ColumnWidth(columns[0]));
    const int64_t width = ColumnWidth(columns[c]);
    if (width == wanted) continue;
    return InvalidArgument("slot ", c - 1, " must have ", wanted, " columns for rows of ", ColumnWidth(columns[0]),
                           ". Received: ", width, " columns.");
  }
  return Status();
}

bool GrowingTable::Admit(Segment* segment, uint64_t word, int64_t update_number) {
  const Admission& admission = parts_.options.admission;
  switch (admission.kind) {
    case Admission::Kind::kAlways:
      return true;
    case Admission::Kind::kCount:
      if (admission.n == 1) return true;
      // Made with its first count: a segment without keys that wait pays for a pointer only.
      if (segment->pending == nullptr) {
        segment->pending = new PendingCounts();
        parts_.memory.Take(static_cast<int64_t>(sizeof(PendingCounts)) + TableMemory::kOverhead);
      }
      return segment->pending->Increment(word, &parts_.memory) >= admission.n;
    case Admission::Kind::kFilter:
      // The filter has locks of its own, which are taken after that of the segment.
      return filter_->Increment(word) >= admission.n;
    case Admission::Kind::kProbability: {
      // From the key and the number of the update, so that a run can be repeated; 53 bits are a double in [0, 1).
      // The mix of keys serves as the random function: each bit of its result depends on all of its argument.
      const uint64_t random = parts_.mix.WordOf(static_cast<int64_t>(word + 0x9E3779B97F4A7C15 * update_number));
      return std::ldexp(static_cast<double>(random >> 11), -53) < admission.p;
    }
  }
  return true;
}

// Called when the row is made, so that an evicted key is counted from 0 when it comes again.
void GrowingTable::ForgetCount(Segment* segment, uint64_t word) {
  // Else a row that was evicted would be made again by the first update.
  if (segment->pending != nullptr) segment->pending->Remove(word);
}

// Returns kNoRoom where the caller should make room and try again. `admitted`: this is such a retry.
Segment::Outcome GrowingTable::UpdateKey(UpdateCall* call, FloatRows* floats, int64_t i, uint64_t word, int likely,
                                         bool admitted) {
  Segment& segment = SegmentOf(word);
  const std::lock_guard<SpinLock> lock(segment.lock());
  // From here to the update one lock: no other update of this row comes between, and no eviction.
  int block = segment.Find(word, likely);
  if (block == Segment::kNone) {
    if (!call->MakesRows()) return Segment::Outcome::kDone;
    // A retry does not ask again: it would count the update twice, or draw a second time.
    if (!admitted && !Admit(&segment, word, call->number)) {
      parts_.refused.fetch_add(1, std::memory_order_relaxed);
      return Segment::Outcome::kDone;
    }
    const Segment::Outcome outcome = parts_.MakeRow(&segment, word);
    // The count stays, so a key that found no room is admitted by its next update.
    if (outcome != Segment::Outcome::kDone) return outcome;
    block = segment.count() - 1;
    parts_.admitted.fetch_add(1, std::memory_order_relaxed);
    ForgetCount(&segment, word);
  }
  uint8_t* at = segment.Block(block);
  // Before AddScore, which adds to a score of the present tick.
  parts_.Touch(&segment, at, call->history.get());
  if (call->gain != 0) parts_.AddScore(segment, at, call->gain);
  UpdateBlock(*call, floats, i, *segment.layout, at);
  return Segment::Outcome::kDone;
}

void GrowingTable::UpdateBlock(const UpdateCall& call, FloatRows* floats, int64_t i, const BlockLayout& layout,
                               uint8_t* block) const {
  static constexpr int64_t kRowZero = 0;
  const int parts = static_cast<int>(call.columns.size());
  RowBlock row;
  if (call.is_floats) {
    row.table = layout.Floats(block, call.columns[0]);
    for (int s = 1; s < parts; ++s) row.slots[s - 1] = layout.Floats(block, call.columns[s]);
    // The updater knows matrices: the block is one whose only row is number 0.
    row.rows = &kRowZero;
    row.count = 1;
    row.dim = call.width;
  } else {
    for (int p = 0; p < parts; ++p) {
      floats->Load(0, p, layout.At(block, call.columns[p]), layout.columns[call.columns[p]].storage);
    }
    row = floats->Block(1);
  }
  // Row i of the message, whatever the thread: rows of a message are different keys, so ranges do not meet.
  row.gradients = call.gradients.sums + i * call.width;
  row.measures = call.gradients.measures == nullptr ? nullptr : call.gradients.measures + i;
  call.updater.ApplyPrepared(call.prepared, row);
  if (call.is_floats) return;
  const RoundingDraw draw{call.rounding, call.keys.keys[i], 0};
  for (int p = 0; p < parts; ++p) {
    floats->Store(0, draw, p, layout.columns[call.columns[p]].storage, layout.At(block, call.columns[p]));
  }
}

void GrowingTable::UpdateRange(UpdateCall* call, int64_t begin, int64_t end) {
  std::vector<int64_t> deferred;
  // Only where it is needed: it allocates.
  std::optional<FloatRows> floats;
  if (!call->is_floats) floats.emplace(call->updater, call->width, 1);
  FloatRows* const room = floats.has_value() ? &*floats : nullptr;
  // All columns of the block are fetched: an update reads the slots, too.
  ForEachKey(parts_, call->keys, begin, end, 0, -1, [&](int64_t i, uint64_t word, int likely) {
    const Segment::Outcome outcome = UpdateKey(call, room, i, word, likely, false);
    if (outcome == Segment::Outcome::kDone) return;
    // Room is made outside of the lock, for many keys at once.
    if (outcome == Segment::Outcome::kNoRoom) return deferred.push_back(i);
    parts_.refused.fetch_add(1, std::memory_order_relaxed);
    call->full_key = call->keys.keys[i];
    call->is_full = true;
  });
  // After the others, whose rows the walk may not take: they have just been touched.
  if (!deferred.empty()) RetryDeferred(call, room, deferred);
}

void GrowingTable::RetryDeferred(UpdateCall* call, FloatRows* floats, const std::vector<int64_t>& deferred) {
  // Room for so many keys at a time; smaller parts would walk for each few rows, larger ones empty small tables.
  constexpr int64_t kPart = 64;
  constexpr int kTries = 3;
  const int64_t count = static_cast<int64_t>(deferred.size());
  for (int64_t k = 0, roomy_until = 0; k < count; ++k) {
    const int64_t i = deferred[k];
    const uint64_t word = parts_.mix.WordOf(call->keys.keys[i]);
    if (k == roomy_until) {
      roomy_until = std::min(count, k + kPart);
      walk_.MakeRoom(roomy_until - k);
    }
    Segment::Outcome outcome = UpdateKey(call, floats, i, word, Segment::kNone, true);
    // Other threads may take the room that was made. After three tries the gradient is dropped, so the update ends in any case.
    for (int tries = 1; outcome == Segment::Outcome::kNoRoom && tries < kTries; ++tries) {
      walk_.MakeRoom(1);
      outcome = UpdateKey(call, floats, i, word, Segment::kNone, true);
    }
    if (outcome == Segment::Outcome::kDone) continue;
    parts_.refused.fetch_add(1, std::memory_order_relaxed);
    parts_.over_budget.fetch_add(1, std::memory_order_relaxed);
  }
}

Status GrowingTable::Update(const std::vector<int>& columns, const RowUpdater& updater, const float* hyperparameters,
                            const RowKeys& keys, const RowGradients& gradients, const ParallelFor& parallel) {
  if (columns.empty()) return InvalidArgument("`columns` must name at least one column. Received: none.");
  TFPS_RETURN_IF_ERROR(CheckUpdate(columns, updater));
  UpdateCall call(columns, updater, keys, gradients);
  call.width = ColumnWidth(columns[0]);
  for (int column : columns) call.is_floats = call.is_floats && ColumnOf(column).storage == Storage::kFloat32;
  call.rounding = roundings_.fetch_add(1, std::memory_order_relaxed);
  // Read once: all keys of an update see one number, whatever other updates are counted meanwhile.
  call.number = parts_.clock.updates();
  call.gain = call.MakesRows() ? parts_.Gain() : 0;
  // Taken once: the clock's mutex would be asked for by every row.
  call.history = parts_.HistoryForScores();
  std::memcpy(call.prepared, hyperparameters, updater.hyperparameters() * sizeof(float));
  updater.Prepare(call.prepared);
  // Before the first row: the record of a tick must not be older than the rows that were touched in it.
  parts_.clock.WillTouch(keys.count);
  // About a nanosecond a float and 20 for each column's cache line.
  const int64_t cost = kNanosecondsARow + (20 + call.width) * static_cast<int64_t>(columns.size());
  parallel(keys.count, cost, [&](int64_t begin, int64_t end) { UpdateRange(&call, begin, end); });
  if (call.MakesRows()) {
    // After the rows, and with no lock held: both of these take the clock's and the walk's.
    parts_.clock.CountUpdate();
    walk_.AfterUpdate();
  }
  if (!call.is_full) return Status();
  return ResourceExhausted("the segment of key ", call.full_key.load(), " has ", Segment::kMaxBlocks,
                           " rows, the most it can have; the other keys of the update have their gradients. A store has at"
                           " most ", Segment::kMaxBlocks * Segment::kSegments, " rows: use more servers.");
}

}  // namespace tfps
