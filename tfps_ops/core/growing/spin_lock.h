// A lock of one byte, for critical sections of some ten nanoseconds: a table has thousands of them.
#ifndef TFPS_OPS_CORE_GROWING_SPIN_LOCK_H_
#define TFPS_OPS_CORE_GROWING_SPIN_LOCK_H_

#include <atomic>
#include <chrono>
#include <thread>

namespace tfps {

// Not fair and not recursive. For std::lock_guard.
// A std::mutex has 40 bytes on Linux: with it a Segment would not fit a cache line.
class SpinLock {
 public:
  // Acquire and release: what one holder wrote, relaxed stores of other atomics among it, the next holder sees.
  void lock() {
    for (int tries = 0; locked_.exchange(true, std::memory_order_acquire); ++tries) Wait(tries);
  }
  void unlock() { locked_.store(false, std::memory_order_release); }

 private:
  static constexpr int kSpins = 64, kYields = 64;

  // The holder may have lost its core, or be moving a segment (about a millisecond): then its core is worth more than ours.
  static void Wait(int tries) {
    if (tries < kSpins) return;
    if (tries < kSpins + kYields) return std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }

  std::atomic<bool> locked_{false};
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_SPIN_LOCK_H_
