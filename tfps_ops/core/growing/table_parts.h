// What the parts of a growing table share: segments, time, memory and counts.
#ifndef TFPS_OPS_CORE_GROWING_TABLE_PARTS_H_
#define TFPS_OPS_CORE_GROWING_TABLE_PARTS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_set>

#include "tfps_ops/core/growing/growing_rows.h"
#include "tfps_ops/core/growing/key_mix.h"
#include "tfps_ops/core/growing/table_memory.h"
#include "tfps_ops/core/growing/segment.h"
#include "tfps_ops/core/growing/tick_clock.h"

namespace tfps {

// Locks, in the order in which they may be taken: that of the eviction walk, that of one segment, then those of the clock, the
// pinned keys and the admission filter. Never two segments at once.
class TableParts {
 public:
  explicit TableParts(const GrowingOptions& options);

  // One row more, unless the budget of rows is full.
  bool ReserveRow();

  // The methods below want the lock of the segment held.

  // Makes the row of a word that is not there, with its first value; all columns and its metadata are as those of a row that
  // was never updated.
  // The caller has looked for the word under the same hold of the lock; else two threads could make two rows for one key.
  Segment::Outcome MakeRow(Segment* segment, uint64_t word);
  // Removes a row, and logs it if changes are recorded.
  void RemoveRow(Segment* segment, int block);
  // Marks a row as touched now. The history is only for rules with decaying scores; it may be null for others.
  void Touch(Segment* segment, uint8_t* block, const TickHistory* history);
  // Adds to a score, which `Touch` has brought to the present.
  void AddScore(const Segment& segment, uint8_t* block, float amount) const;
  // The score as it is now. For kSmallNorm the field has the tick of the row's first day instead (BirthTick).
  float ScoreNow(const Segment& segment, const uint8_t* block, const TickHistory* history) const;
  static uint32_t BirthTick(const Segment& segment, const uint8_t* block);
  void SetBirthTick(const Segment& segment, uint8_t* block, uint32_t tick) const;

  bool IsKind(Eviction::Kind kind) const { return options.eviction.kind == kind; }
  // What an update adds to the score of a row.
  float Gain() const;
  // The clock's history where scores decay, else null, which saves taking it.
  std::shared_ptr<const TickHistory> HistoryForScores() const;
  // How often a score that was written in this tick has decayed since.
  double DecaySince(uint32_t tick, const TickHistory* history) const;
  Segment& SegmentOf(uint64_t word) const { return segments[Segment::Of(word)]; }
  uint64_t WordOf(const Segment& segment, int block) const;

  const GrowingOptions options;
  const KeyMix mix;
  // Declared before `memory`, so destroyed after it: the pool's units are gone then, and ~Segment does not read blocks.
  const std::unique_ptr<Segment[]> segments;
  TableMemory memory;
  TickClock clock;

  // Sums for Counts.
  // Relaxed everywhere: nobody infers from a count that other memory was written.
  std::atomic<int64_t> rows{0}, admitted{0}, refused{0}, over_budget{0}, evicted{0};

  std::atomic<int64_t> block_bytes{0};  // of the newest layout

  // Set by the first Since: from then on rows that are evicted or erased are logged.
  std::atomic<bool> recording{false};
  // Entries of the log up to this tick may have been dropped.
  // A cursor before this tick is answered with `complete` = false.
  std::atomic<uint32_t> forgotten_tick{0};

  std::atomic<int64_t> pinned_count{0};
  std::mutex pinned_mutex;                // guards what follows
  std::unordered_set<uint64_t> pinned;    // words, stored or not

 private:
  void LogGone(Segment* segment, uint64_t word);
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_TABLE_PARTS_H_
