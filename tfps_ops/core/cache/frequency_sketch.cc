#include "tfps_ops/core/cache/frequency_sketch.h"

#include <algorithm>

namespace tfps {

FrequencySketch::FrequencySketch(int64_t counters) : blocks_(std::max<int64_t>(1, (counters + kCounters - 1) / kCounters)) {}

int FrequencySketch::Estimate(uint64_t word) const {
  const Block& block = blocks_[BlockOf(word)];
  int least = kMaxCount;
  for (int hash = 0; hash < kHashes; ++hash) least = std::min<int>(least, block.counts[CounterOf(word, hash)]);
  return least;
}

int FrequencySketch::Raise(uint64_t word, int count) {
  Block& block = blocks_[BlockOf(word)];
  const auto raised = static_cast<uint8_t>(std::min(count, kMaxCount));
  // Conservative: counters that are larger already belong to other keys too, and stay.
  for (int hash = 0; hash < kHashes; ++hash) {
    uint8_t& counter = block.counts[CounterOf(word, hash)];
    counter = std::max(counter, raised);
  }
  return Estimate(word);
}

void FrequencySketch::Halve() {
  for (Block& block : blocks_) {
    for (uint8_t& counter : block.counts) counter >>= 1;
  }
}

}  // namespace tfps
