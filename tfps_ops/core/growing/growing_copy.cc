// Lookups, and writes that are no updates: assigned values and metadata, scores, pins, erasing.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tfps_ops/core/growing/growing_table.h"
#include "tfps_ops/core/growing/key_pipeline.h"

namespace tfps {
namespace {

constexpr int64_t kNanosecondsARow = 60;  // two fetches, several of which are under way at a time

}  // namespace

// Where the next update is sure to make the row, the lookup shows what the row will begin with, so the first step of a key is
// that of a fixed table. Where it is not, the default is the mean: all keys that wait look the same to the model.
bool GrowingTable::AllAdmitted() const {
  const Admission& admission = parts_.options.admission;
  switch (admission.kind) {
    case Admission::Kind::kAlways:
      return true;
    case Admission::Kind::kProbability:
      return admission.reads_first_value || admission.p >= 1;
    default:
      return admission.reads_first_value || admission.n <= 1;
  }
}

void GrowingTable::WriteUnstored(const Column& about, int column, int64_t key, float* out) const {
  // A slot of a row that is not there reads as that of a row which was just made.
  if (column != 0) std::fill(out, out + about.width, about.initial);
  else if (AllAdmitted()) WriteFirstValue(parts_.options.first, key, about.width, out);
  else std::fill(out, out + about.width, MeanFirstValue(parts_.options.first));
}

void GrowingTable::CopyUnstored(const Column& about, int column, int64_t key, const RowBuffer& out, int64_t element) const {
  if (about.storage == Storage::kFloat32 && out.storage == Storage::kFloat32) {
    return WriteUnstored(about, column, key, static_cast<float*>(out.At(element)));
  }
  // Rounded as MakeRow does, so that the row begins with what was read.
  std::vector<float> values(about.width);
  WriteUnstored(about, column, key, values.data());
  std::vector<uint16_t> halves(about.width);
  StoreNearest(values.data(), about.width, Storage::kBfloat16, halves.data());
  CopyRow(halves.data(), Storage::kBfloat16, about.width, out, element);
}

Status GrowingTable::Copy(int column, const RowKeys& keys, bool training, const RowBuffer& out, const ParallelFor& parallel) {
  const Column about = ColumnOf(column);
  if (!about.live) return CheckColumn(column);
  // Only a touch writes a score; evaluation leaves blocks as they are.
  const auto history = training ? parts_.HistoryForScores() : nullptr;
  // Also for keys without a row, which only count towards the end of the tick.
  if (training) parts_.clock.WillTouch(keys.count);
  parallel(keys.count, kNanosecondsARow + about.width, [&](int64_t begin, int64_t end) {
    // Only this column of a block is fetched, and the line with its word.
    ForEachKey(parts_, keys, begin, end, column, column, [&](int64_t i, uint64_t word, int likely) {
      Segment& segment = SegmentOf(word);
      {
        // Copied under the lock: a reader never gets half of an update.
        const std::lock_guard<SpinLock> lock(segment.lock());
        const int block = segment.Find(word, likely);
        if (block != Segment::kNone) {
          uint8_t* at = segment.Block(block);
          if (training) parts_.Touch(&segment, at, history.get());
          segment.layout->Copy(at, column, out, i * about.width);
          return;
        }
      }
      // Not under the lock: random numbers take longer than a copy.
      CopyUnstored(about, column, keys.keys[i], out, i * about.width);
    });
  });
  return Status();
}

Status GrowingTable::AssignRow(int column, uint64_t word, const float* values) {
  Segment& segment = SegmentOf(word);
  // Before the lock of the segment, which is then held for less time.
  const auto history = parts_.HistoryForScores();
  const std::lock_guard<SpinLock> lock(segment.lock());
  int block = segment.Find(word);
  if (block == Segment::kNone) {
    if (parts_.MakeRow(&segment, word) != Segment::Outcome::kDone) {
      // Budgets do not hold here, so only a segment with all the rows that it can have, or no memory at all, refuses.
      return ResourceExhausted("no room for the row of key ", parts_.mix.KeyOf(word), ": the table has ",
                               parts_.rows.load(std::memory_order_relaxed), " rows in ", parts_.memory.bytes(),
                               " bytes, and at most ", Segment::kMaxBlocks, " rows a segment.");
    }
    block = segment.count() - 1;
    // As after one update: else an assigned row would be the first to go. AssignMeta may give it another score.
    parts_.AddScore(segment, segment.Block(block), parts_.Gain());
    ForgetCount(&segment, word);
  }
  uint8_t* at = segment.Block(block);
  parts_.Touch(&segment, at, history.get());
  segment.layout->Write(at, column, values);
  return Status();
}

Status GrowingTable::Assign(int column, const RowKeys& keys, const float* values) {
  const Column about = ColumnOf(column);
  if (!about.live) return CheckColumn(column);
  const TableMemory::Beyond beyond(&parts_.memory);
  // Ends the tick where enough rows were assigned in it, as no update does so while a checkpoint is restored.
  parts_.clock.CatchUp();
  parts_.clock.WillTouch(keys.count);
  for (int64_t i = 0; i < keys.count; ++i) {
    TFPS_RETURN_IF_ERROR(AssignRow(column, parts_.mix.WordOf(keys.keys[i]), values + i * about.width));
  }
  return Status();
}

void GrowingTable::CopyMeta(const RowKeys& keys, RowMeta* meta) const {
  const double now = parts_.clock.now();
  const auto history = parts_.clock.History();
  for (int64_t i = 0; i < keys.count; ++i) {
    const uint64_t word = parts_.mix.WordOf(keys.keys[i]);
    const Segment& segment = SegmentOf(word);
    const std::lock_guard<SpinLock> lock(segment.lock());
    const int block = segment.Find(word);
    // The history may be older than a touch that came since: the row has no record then, and its age is 0.
    meta[i] = block == Segment::kNone ? RowMeta() : MetaOf(segment, segment.Block(block), *history, now);
  }
}

void GrowingTable::AssignMeta(const RowKeys& keys, const RowMeta* meta) {
  const bool recording = parts_.recording.load();
  for (int64_t i = 0; i < keys.count; ++i) {
    const uint64_t word = parts_.mix.WordOf(keys.keys[i]);
    Segment& segment = SegmentOf(word);
    // Before the lock: it has one of its own, and neighbours mostly have the same age.
    const uint32_t tick = parts_.clock.TickOfAge(meta[i].idle_updates, meta[i].idle_seconds);
    const auto history = parts_.HistoryForScores();
    const std::lock_guard<SpinLock> lock(segment.lock());
    const int block = segment.Find(word);
    if (block == Segment::kNone) continue;
    uint8_t* at = segment.Block(block);
    // A reader of changes must not miss the row, so there it stays as young as it is.
    if (!recording) segment.layout->SetTick(at, tick);
    if (parts_.IsKind(Eviction::Kind::kSmallNorm)) {
      // For this rule the score is the updates since the row was made.
      parts_.SetBirthTick(segment, at, parts_.clock.TickOfAge(static_cast<int64_t>(meta[i].score), 0));
      continue;
    }
    // Scores decay from the tick of the block on.
    // By the tick that the block has now, which is the restored one unless changes are recorded.
    const double decay = parts_.DecaySince(segment.layout->Tick(at), history.get());
    // For example a saved score of 6 and a decay since the tick of 0.5: 12 is stored, which reads as 6. Where nearly all has
    // decayed the quotient would overflow, and the row is about to go anyway.
    segment.layout->SetScore(at, static_cast<float>(decay > 1e-30 ? meta[i].score / decay : 0));
  }
}

int64_t GrowingTable::Erase(const RowKeys& keys) {
  int64_t erased = 0;
  for (int64_t i = 0; i < keys.count; ++i) {
    const uint64_t word = parts_.mix.WordOf(keys.keys[i]);
    Segment& segment = SegmentOf(word);
    const std::lock_guard<SpinLock> lock(segment.lock());
    const int block = segment.Find(word);
    if (block == Segment::kNone) continue;
    // The pin stays in the set: a pinned key that comes again is pinned again.
    parts_.RemoveRow(&segment, block);
    ++erased;
  }
  return erased;
}

void GrowingTable::Clear() {
  // A reader of changes is told to ask for all rows: the log has no room for a whole table.
  // Before the rows go: a reader with an earlier cursor that comes meanwhile is told, too.
  if (parts_.recording.load()) parts_.forgotten_tick.store(parts_.clock.EndTick());
  for (int s = 0; s < Segment::kSegments; ++s) {
    Segment& segment = parts_.segments[s];
    const std::lock_guard<SpinLock> lock(segment.lock());
    // Segment by segment: rows that updates make meanwhile stay, and are counted.
    parts_.rows.fetch_sub(segment.count(), std::memory_order_relaxed);
    segment.Clear(&parts_.memory);
    if (segment.pending == nullptr) continue;
    parts_.memory.Take(-segment.pending->bytes() - static_cast<int64_t>(sizeof(PendingCounts)) - TableMemory::kOverhead);
    delete segment.pending;
    segment.pending = nullptr;
  }
  if (filter_ != nullptr) filter_->Clear();
}

void GrowingTable::Pin(const RowKeys& keys, bool pinned) {
  // Two calls that pin and unpin a key could else leave the set and the flag of the block different from each other.
  const std::lock_guard<std::mutex> one(pin_mutex_);
  for (int64_t i = 0; i < keys.count; ++i) {
    const uint64_t word = parts_.mix.WordOf(keys.keys[i]);
    {
      // The set first: a row that is made from now on looks there.
      // Given back before the segment is locked: the order of locks is the other way round.
      const std::lock_guard<std::mutex> lock(parts_.pinned_mutex);
      // The sizes before and after tell whether the set has changed: a key may be pinned twice.
      const size_t before = parts_.pinned.size();
      if (pinned) parts_.pinned.insert(word);
      else parts_.pinned.erase(word);
      // A node of the set and its part of the buckets, about.
      parts_.memory.Take((static_cast<int64_t>(parts_.pinned.size()) - static_cast<int64_t>(before)) * 48);
      parts_.pinned_count.store(static_cast<int64_t>(parts_.pinned.size()), std::memory_order_relaxed);
    }
    Segment& segment = SegmentOf(word);
    const std::lock_guard<SpinLock> lock(segment.lock());
    const int block = segment.Find(word);
    if (block == Segment::kNone) continue;
    const uint64_t flagged = (word & Segment::kWordMask) | (pinned ? Segment::kPinned : 0);
    // IsWord masks the flag out, so the row is found as before.
    std::memcpy(segment.Block(block), &flagged, sizeof(flagged));
  }
}

Status GrowingTable::AddScores(const RowKeys& keys, const float* amounts) {
  if (!parts_.IsKind(Eviction::Kind::kScore)) return InvalidArgument("scores are kept only where the eviction is by score.");
  const auto history = parts_.HistoryForScores();
  parts_.clock.WillTouch(keys.count);
  for (int64_t i = 0; i < keys.count; ++i) {
    const uint64_t word = parts_.mix.WordOf(keys.keys[i]);
    Segment& segment = SegmentOf(word);
    const std::lock_guard<SpinLock> lock(segment.lock());
    const int block = segment.Find(word);
    if (block == Segment::kNone) continue;
    parts_.Touch(&segment, segment.Block(block), history.get());
    // After Touch, which has brought the score to the present tick.
    parts_.AddScore(segment, segment.Block(block), amounts[i]);
  }
  return Status();
}

}  // namespace tfps
