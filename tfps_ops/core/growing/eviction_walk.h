// Eviction: a hand walks over the table, a slice at a time, and evicts the rows that the rule selects.
//
// Rules with a threshold of their own (kUnseen, kSmallNorm, kScore) are checked as the hand comes by; each update moves it so
// far that it goes round at least kRounds times in the rule's horizon. At a budget the hand evicts the rows that matter least:
// a sample of the table gives the tick, or the score, below which 1 in kPart rows lies, and rows below it are evicted as the
// hand meets them. So the evicted rows are not the very lowest ones, but among the lowest sixteenth.
#ifndef TFPS_OPS_CORE_GROWING_EVICTION_WALK_H_
#define TFPS_OPS_CORE_GROWING_EVICTION_WALK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "tfps_ops/core/growing/table_parts.h"

namespace tfps {

// Threads: any; one walks at a time, and has the lock of one segment for at most kVisitsALock rows.
class EvictionWalk {
 public:
  explicit EvictionWalk(TableParts* parts) : parts_(*parts) {}

  // Evicts until the budgets have room for so many rows more, or kVisitsForRoom rows were visited; the caller holds no lock.
  void MakeRoom(int64_t rows);
  // The slice of an update.
  void AfterUpdate();
  // Walks over so many rows, at most once round; returns how many were evicted.
  int64_t Evict(int64_t max_rows);

 private:
  // A row may wait a round for the hand, 1/8 of the horizon, and a tick, 1/64 of it, beyond its time.
  static constexpr int64_t kRounds = 8;
  static constexpr int64_t kVisitsALock = 512;
  static constexpr int64_t kVisitsASlice = 32768;  // about half a millisecond
  // A bound on how long one update may search for room, after which its new keys are refused: some 8 slices.
  static constexpr int64_t kVisitsForRoom = 262144;
  static constexpr int64_t kSample = 1024;
  static constexpr int64_t kPart = 16;

  // What the hand checks rows by, the same for a slice.
  struct Criterion {
    std::shared_ptr<const TickHistory> history;
    uint32_t first_safe_tick = 0;  // rows with this tick or a later one stay
    uint32_t rule_tick = 0;        // the horizon: rows with a later one stay
    bool pressed = false;          // at a budget
    uint32_t pressed_tick = 0;
    float pressed_score = 0;
  };

  // The mutex is held for all of these.
  Criterion MakeCriterion() const;
  int64_t Walk(int64_t visits, const Criterion& criterion, const std::function<bool()>& is_enough);
  int64_t VisitSegment(Segment* segment, int64_t visits, const Criterion& criterion, const std::function<bool()>& is_enough);
  bool Goes(const Segment& segment, const uint8_t* block, const Criterion& criterion) const;
  bool GoesByRule(const Segment& segment, const uint8_t* block, const Criterion& criterion) const;
  bool HasRoom(int64_t rows) const;
  bool ByScore() const { return parts_.IsKind(Eviction::Kind::kScore) || parts_.IsKind(Eviction::Kind::kLeastFrequent); }
  // Whether the rule evicts rows where no budget is full.
  bool HasRule() const {
    return parts_.IsKind(Eviction::Kind::kUnseen) || parts_.IsKind(Eviction::Kind::kSmallNorm) ||
           parts_.IsKind(Eviction::Kind::kScore);
  }
  // Finds the thresholds of a criterion from a sample; false where no row may be evicted.
  bool Press(Criterion* criterion);
  void SampleSegment(const Segment& segment, const Criterion& criterion, int64_t most);
  // Rows by which the hand falls behind with each update.
  double SliceOfUpdate();

  TableParts& parts_;
  std::mutex mutex_;          // guards what follows
  int hand_segment_ = 0;
  int64_t hand_left_ = -1;    // blocks of the segment that the hand has not visited, from the last to the first; -1: all
  int64_t round_rows_ = 0;    // of the table when the hand was at its first segment: it slows down no more than it did
  double credit_ = 0;         // rows that the hand is behind
  double last_slice_ = -1;    // seconds; below 0: never
  uint64_t sample_seed_ = 1;
  // The thresholds of the last sample, and what is left of them.
  Criterion pressure_;
  int64_t pressure_left_ = 0;  // rows that may still go by them
  std::vector<std::pair<float, uint32_t>> sample_;  // score and tick of rows that may go
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_EVICTION_WALK_H_
