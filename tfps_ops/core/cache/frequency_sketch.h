// Estimates how often keys were asked for lately, in bounded memory, for keys that a cache does not hold.
//
// A count-min sketch with conservative updates (Cormode and Muthukrishnan 2005; Estan and Varghese 2002): a key has four counters
// of 8 bits, and its estimate is the smallest of them. Other keys may share some of the four, so an estimate is never too small
// but by ageing, and seldom too large. The four are in one block of a cache line, so a key costs one access to memory.
// `Halve` ages all counts, so that keys which were popular long ago make room (TinyLFU, Einziger et al. 2017).
#ifndef TFPS_OPS_CORE_CACHE_FREQUENCY_SKETCH_H_
#define TFPS_OPS_CORE_CACHE_FREQUENCY_SKETCH_H_

#include <array>
#include <cstdint>
#include <vector>

namespace tfps {

// Threads: one at a time.
class FrequencySketch {
 public:
  static constexpr int kMaxCount = 255;

  // At least `counters` counters of one byte, rounded up to whole blocks. Sketches are good for about a key for each four of them.
  explicit FrequencySketch(int64_t counters);

  // Counts a key once more; `word` is its hash, of 64 evenly spread bits. Returns its new estimate.
  int Increment(uint64_t word) { return Raise(word, Estimate(word) + 1); }
  // Makes the estimate of a key at least `count`; more than kMaxCount counts as kMaxCount. Returns the estimate.
  int Raise(uint64_t word, int count);
  int Estimate(uint64_t word) const;
  // Halves all counts, rounding down.
  void Halve();

 private:
  static constexpr int kCounters = 64;  // of a block: a cache line
  static constexpr int kHashes = 4;     // counters of a key

  struct alignas(64) Block {
    std::array<uint8_t, kCounters> counts = {};
  };

  // The high half of the word chooses the block; the low 24 bits, 6 for each counter, choose within it.
  int64_t BlockOf(uint64_t word) const { return static_cast<int64_t>(((word >> 32) * blocks_.size()) >> 32); }
  static int CounterOf(uint64_t word, int hash) { return static_cast<int>(word >> 6 * hash & (kCounters - 1)); }

  std::vector<Block> blocks_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_CACHE_FREQUENCY_SKETCH_H_
