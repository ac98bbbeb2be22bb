// Scans over all rows, and over those that have changed.
//
// A scan goes by mixed keys: those of a segment lie between those of its neighbours, and within a segment a chunk takes the
// smallest ones from the cursor on. So it does not matter where blocks are moved meanwhile, or how the index grows.
#include <algorithm>

#include "tfps_ops/core/growing/growing_table.h"

namespace tfps {
namespace {

// A cursor is a mixed key without its lowest bit, so that it is never negative. Two keys may have the same one, of 2^63; they
// are copied together.
uint64_t CursorOf(uint64_t word) { return word >> 1; }
uint64_t FirstWordOf(int64_t cursor) { return static_cast<uint64_t>(cursor) << 1; }

uint64_t FirstWordOfSegment(int segment) { return static_cast<uint64_t>(segment) << Segment::kWordBits; }

struct ScannedWord {
  uint64_t word;
  int block;
};

// Leaves the `room` smallest of more words, and sets the cursor to the first that is left out. The two words of one cursor stay
// together: both are left out, or, where nothing else would come, both taken.
void CutWords(int64_t room, bool is_first, std::vector<ScannedWord>* words, int64_t* cursor) {
  const auto next = words->begin() + room;
  // Selected and not sorted: the order within a chunk means nothing, and a selection takes linear time.
  std::nth_element(words->begin(), next, words->end(),
                   [](const ScannedWord& a, const ScannedWord& b) { return a.word < b.word; });
  const uint64_t next_cursor = CursorOf(next->word);
  const auto other = std::find_if(words->begin(), next, [&](const ScannedWord& w) { return CursorOf(w.word) == next_cursor; });
  if (other != next && room == 1 && is_first) {
    // What is left begins with the next cursor; nothing of this segment, perhaps.
    *cursor = words->size() == 2 ? RowStore::kEnd : static_cast<int64_t>(next_cursor + 1);
    words->resize(2);
    return;
  }
  *cursor = static_cast<int64_t>(next_cursor);
  // The last of the kept words takes the place of the one that is left out.
  if (other != next) *other = *(next - 1);
  words->resize(room - (other != next));
}

}  // namespace

RowMeta GrowingTable::MetaOf(const Segment& segment, const uint8_t* block, const TickHistory& history, double now) const {
  RowMeta meta;
  // No record means that the tick has not ended, or that the block was made before there were ticks: an age of 0.
  const auto idle_since = [&](uint32_t tick) { return tick == 0 ? nullptr : history.Of(tick); };
  if (const TickRecord* record = idle_since(segment.layout->Tick(block))) {
    meta.idle_updates = std::max<int64_t>(0, parts_.clock.updates() - record->updates);
    meta.idle_seconds = static_cast<float>(std::max(0.0, now - record->seconds));
  }
  if (parts_.IsKind(Eviction::Kind::kSmallNorm)) {
    const TickRecord* born = idle_since(TableParts::BirthTick(segment, block));
    meta.score = born == nullptr ? 0 : static_cast<float>(parts_.clock.updates() - born->updates);
  } else {
    meta.score = parts_.ScoreNow(segment, block, parts_.IsKind(Eviction::Kind::kScore) ? &history : nullptr);
  }
  return meta;
}

void GrowingTable::ScanSegment(int number, const std::vector<int>& columns, uint64_t first_word, int64_t max_rows,
                               GrowingChunk* chunk) const {
  const Segment& segment = parts_.segments[number];
  // Both before the lock, and once for all rows of the segment.
  const auto history = parts_.clock.History();
  const double now = parts_.clock.now();
  const std::lock_guard<SpinLock> lock(segment.lock());
  std::vector<ScannedWord> words;
  for (int block = 0; block < segment.count(); ++block) {
    const uint64_t word = FirstWordOfSegment(number) | segment.LowWord(block);
    // All words of the segment are looked at for each chunk, since blocks lie in no order of words.
    if (word >= first_word) words.push_back({word, block});
  }
  const int64_t room = max_rows - static_cast<int64_t>(chunk->rows.keys.size());
  if (static_cast<int64_t>(words.size()) > room) CutWords(room, chunk->rows.keys.empty(), &words, &chunk->rows.cursor);
  for (const ScannedWord& scanned : words) {
    uint8_t* block = segment.Block(scanned.block);
    chunk->rows.keys.push_back(parts_.mix.KeyOf(scanned.word));
    for (size_t c = 0; c < columns.size(); ++c) {
      // All columns under one lock: a saved slot belongs to the saved value of its row.
      std::vector<float>* out = c == 0 ? &chunk->rows.rows : &chunk->rows.slots[c - 1];
      const int64_t end = static_cast<int64_t>(out->size());
      out->resize(end + segment.layout->columns[columns[c]].width);
      segment.layout->Copy(block, columns[c], out->data(), end);
    }
    chunk->meta.push_back(MetaOf(segment, block, *history, now));
  }
}

Result<GrowingChunk> GrowingTable::Scan(const std::vector<int>& columns, int64_t cursor, int64_t max_rows) const {
  if (max_rows < 1) return InvalidArgument("`max_rows` must be at least 1. Received: ", max_rows, ".");
  if (cursor < 0) return InvalidArgument("`cursor` must be 0 or come from an earlier chunk. Received: ", cursor, ".");
  if (columns.empty()) return InvalidArgument("`columns` must name at least one column. Received: none.");
  for (int column : columns) TFPS_RETURN_IF_ERROR(CheckColumn(column));
  GrowingChunk chunk;
  chunk.rows.slots.resize(columns.size() - 1);
  chunk.rows.cursor = RowStore::kEnd;
  // Reserved at once, so that vectors do not move while a segment is locked. `max_rows` may be far more than there are.
  const int64_t rows = std::min(max_rows, parts_.rows.load(std::memory_order_relaxed));
  chunk.rows.keys.reserve(rows);
  chunk.meta.reserve(rows);
  for (size_t c = 0; c < columns.size(); ++c) {
    (c == 0 ? chunk.rows.rows : chunk.rows.slots[c - 1]).reserve(rows * ColumnWidth(columns[c]));
  }
  const uint64_t first_word = FirstWordOf(cursor);
  for (int s = Segment::Of(first_word); s < Segment::kSegments; ++s) {
    if (static_cast<int64_t>(chunk.rows.keys.size()) >= max_rows) {
      // The chunk ends with a segment: the next one that has rows is where it goes on.
      const std::lock_guard<SpinLock> lock(parts_.segments[s].lock());
      // Else the last chunk of a scan could be an empty one.
      if (parts_.segments[s].count() == 0) continue;
      chunk.rows.cursor = static_cast<int64_t>(CursorOf(FirstWordOfSegment(s)));
      break;
    }
    ScanSegment(s, columns, first_word, max_rows, &chunk);
    if (chunk.rows.cursor != RowStore::kEnd) break;
  }
  return chunk;
}

Status GrowingTable::BeginRecording() {
  if (layouts_.back().tick_offset == 0) {
    BlockLayout layout = layouts_.back();
    layout.AddTick();
    // The ticks first: a touch after the first cursor must find a place for its tick.
    TFPS_RETURN_IF_ERROR(RelaySegments(layout, Segment::kNone));
  }
  // Then the log, then the end of the tick: what goes after the cursor is in the log.
  parts_.recording.store(true);
  first_cursor_ = parts_.clock.EndTick();
  return Status();
}

Result<KeysSince> GrowingTable::Since(int64_t cursor) {
  const std::lock_guard<std::mutex> change(change_mutex_);
  const bool first = !parts_.recording.load();
  if (first) {
    if (cursor != kNow) return InvalidArgument("the first `cursor` must be kNow (-1). Received: ", cursor, ".");
    TFPS_RETURN_IF_ERROR(BeginRecording());
  }
  // The tick ends before the first segment is looked at: what is touched from now on has a later one (TickClock::tick).
  const uint32_t ended = first ? first_cursor_ : parts_.clock.EndTick();
  KeysSince since;
  since.cursor = ended;
  if (cursor == kNow) return since;
  // Such a cursor is that of another table, or of this one before its server was started again.
  if (cursor < first_cursor_ || cursor >= ended) {
    return InvalidArgument("`cursor` must be kNow (-1) or come from an earlier call, from ", first_cursor_, " to ", ended - 1,
                           ". Received: ", cursor, ".");
  }
  const uint32_t tick = static_cast<uint32_t>(cursor);
  for (int s = 0; s < Segment::kSegments; ++s) {
    Segment& segment = parts_.segments[s];
    const std::lock_guard<SpinLock> lock(segment.lock());
    // Segments without a touch since the cursor are passed over as a whole.
    for (int block = 0; segment.newest_tick > tick && block < segment.count(); ++block) {
      if (segment.layout->Tick(segment.Block(block)) <= tick) continue;
      since.touched.push_back(parts_.mix.KeyOf(parts_.WordOf(segment, block)));
    }
    if (segment.gone == nullptr) continue;
    // A key that went and came back is in `touched` only, by the tick of its new row.
    const auto is_stored = [&segment](uint64_t word) { return segment.Find(word) != Segment::kNone; };
    for (uint64_t word : segment.gone->Since(tick, is_stored)) since.evicted.push_back(parts_.mix.KeyOf(word));
  }
  // Last: what has been dropped meanwhile is missing.
  since.complete = parts_.forgotten_tick.load() <= tick;
  return since;
}

}  // namespace tfps
