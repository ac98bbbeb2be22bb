// What the tests of the core need: checks that say what was found, tests that register themselves, threads, random numbers.
// No test framework, so that a compiler is all it takes to run them under a sanitizer.
#ifndef TFPS_OPS_CORE_TESTING_H_
#define TFPS_OPS_CORE_TESTING_H_

#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/status.h"

namespace tfps {

struct Test {
  const char* name;
  void (*run)();
};

// Every test of the binary, filled before main.
// In a function, because the order in which static objects of several files are made is not known.
inline std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

// A static object of it, one a test, puts the test on the list before main.
struct Registration {
  Registration(const char* name, void (*run)()) { Tests().push_back({name, run}); }
};

// TFPS_TEST(Name) { ... } is a test. Names say what holds: RowsAreCopiedInTheOrderAskedFor.
#define TFPS_TEST(name)                                  \
  static void name();                                    \
  static const ::tfps::Registration name##_(#name, name); \
  static void name()

// A test of one thread with very many rows. It is left out under the thread sanitizer: that takes minutes for it, and one thread
// races with nobody.
#ifdef __SANITIZE_THREAD__
#define TFPS_TEST_OF_MANY(name) [[maybe_unused]] static void name()
#else
#define TFPS_TEST_OF_MANY(name) TFPS_TEST(name)
#endif

// Ends the process where the condition is false: with sanitizers and threads there is nothing to go on with.
#define TFPS_CHECK(condition)                                                       \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                 \
    }                                                                               \
  } while (false)

// The value of a result that must be one; an error is printed, as the reason that the test cannot go on.
template <class T>
T ValueOf(Result<T> result) {
  if (!result.ok()) std::fprintf(stderr, "%s\n", result.status().message().c_str());
  TFPS_CHECK(result.ok());
  return std::move(result.value());
}

// A ParallelFor that starts a thread a range, so that a thread sanitizer sees all there is to see.
inline void InThreads(int64_t total, int64_t /*nanoseconds*/, const RangeWork& work) {
  // More than this machine may have cores: a sanitizer sees races whether or not the threads run at the same moment.
  constexpr int64_t kThreads = 4;
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < kThreads; ++i) {
    const int64_t begin = total * i / kThreads, end = total * (i + 1) / kThreads;
    // Empty ranges get no thread: `work` may rely on begin < end.
    if (begin < end) threads.emplace_back([&work, begin, end] { work(begin, end); });
  }
  for (std::thread& thread : threads) thread.join();
}

// Seeded, so that a failure comes again.
class Random {
 public:
  explicit Random(int seed) : engine_(seed) {}
  // Uniform in [low, high].
  int64_t Integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  float Float() { return std::normal_distribution<float>()(engine_); }
  // From the normal distribution, so of both signs and mostly of size 1.
  std::vector<float> Floats(int64_t count) {
    std::vector<float> floats(count);
    for (float& f : floats) f = Float();
    return floats;
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_TESTING_H_
