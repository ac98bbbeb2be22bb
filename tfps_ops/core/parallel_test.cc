#include "tfps_ops/core/parallel.h"

#include <atomic>
#include <vector>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

TFPS_TEST(EachUnitIsWorkedOnOnce) {
  for (const ParallelFor& parallel : {ParallelFor(InCallersThread), ParallelFor(InThreads)}) {
    for (int64_t total : {0, 1, 2, 3, 4, 5, 1000}) {
      std::vector<std::atomic<int>> times(total);
      std::atomic<int64_t> calls{0};
      parallel(total, 1, [&](int64_t begin, int64_t end) {
        TFPS_CHECK(begin < end && begin >= 0 && end <= total);  // no range is empty
        ++calls;
        for (int64_t i = begin; i < end; ++i) ++times[i];
      });
      for (const std::atomic<int>& count : times) TFPS_CHECK(count == 1);
      TFPS_CHECK((calls == 0) == (total == 0));
    }
  }
}

TFPS_TEST(TheCallersThreadWorksInOnePiece) {
  int calls = 0;
  InCallersThread(100, 1'000'000'000, [&](int64_t begin, int64_t end) {
    TFPS_CHECK(begin == 0 && end == 100);
    ++calls;
  });
  TFPS_CHECK(calls == 1);
}

TFPS_TEST(WhatThreadsHaveWrittenIsSeenAfterwards) {
  std::vector<int64_t> squares(1000);
  InThreads(1000, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) squares[i] = i * i;
  });
  for (int64_t i = 0; i < 1000; ++i) TFPS_CHECK(squares[i] == i * i);
}

}  // namespace
}  // namespace tfps
