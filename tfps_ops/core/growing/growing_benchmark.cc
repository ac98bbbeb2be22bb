// What rows that grow cost beside rows in a matrix. Prints one line of JSON.
//
//   growing_benchmark ROWS DIM [THREADS]
//
// Both tables have the same rows, with Adagrad's slot; random keys are copied and updated in messages of kBatch, the two tables
// in turns, so that what else the machine does meets both. The matrix is left out above kMatrixRows.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tfps_ops/core/growing/growing_rows.h"
#include "tfps_ops/core/stores/matrix_row_store.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

constexpr int64_t kBatch = 8192;
constexpr int64_t kTurns = 200;
constexpr int64_t kMatrixRows = 20'000'000;

double Nanoseconds() {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of this thread on its core: what other programs take of it does not count.
double OwnNanoseconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

double ResidentBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::stod(line.substr(6)) * 1024;
  }
  return 0;
}

// Ids as they come: not in the order of anything.
// An odd factor is a bijection modulo 2^64, so keys are different and need no set to check.
int64_t KeyOf(int64_t i) { return static_cast<int64_t>(static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15); }

// Nanoseconds a row, of many calls.
struct Timer {
  std::vector<double> each;
  template <class Work>
  void Time(int64_t count, const Work& work) {
    const double begin = Nanoseconds();
    work();
    each.push_back((Nanoseconds() - begin) / static_cast<double>(count));
  }
  // What other programs do to a few calls does not count.
  double Median() const {
    std::vector<double> sorted = each;
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0 : sorted[sorted.size() / 2];
  }
};

struct Benchmark {
  Benchmark(int64_t rows, int64_t dim, int threads)
      : rows(rows), dim(dim), updater(ValueOf(MakeRowUpdater("adagrad"))), gradients(kBatch * dim, 0.01f), out(kBatch * dim) {
    parallel = [threads](int64_t total, int64_t, const RangeWork& work) {
      std::vector<std::thread> others;
      for (int t = 1; t < threads; ++t) {
        others.emplace_back([&work, total, t, threads] { work(total * t / threads, total * (t + 1) / threads); });
      }
      work(0, total / threads);
      for (std::thread& thread : others) thread.join();
    };
    GrowingOptions options;
    options.dim = dim;
    options.first = {FirstValue::Kind::kUniform, -1, 1, 1, {2, 3}};
    options.eviction.kind = Eviction::Kind::kUnseen;  // with ticks
    // So far off that no row goes: what is timed is the keeping of ticks.
    options.eviction.steps = int64_t{1} << 40;
    table = ValueOf(MakeGrowingRows(options));
    (void)ValueOf(table->AddColumn(dim, 0.1f));
  }

  // Fills the table and keeps the longest call of one key, on which rows grow as on others.
  void Grow() {
    std::vector<int64_t> keys(kBatch);
    for (int64_t begin = 0; begin < rows; begin += kBatch) {
      const int64_t count = std::min(kBatch, rows - begin);
      for (int64_t i = 0; i < count; ++i) keys[i] = KeyOf(begin + i);
      // Growth of an index is rare: single calls find the longest pause, while the rest fills the table quickly.
      const int64_t single = std::min<int64_t>(count, 256);
      for (int64_t i = 0; i < single; ++i) {
        const double start = Nanoseconds(), own = OwnNanoseconds();
        Update(table.get(), keys.data() + i, 1, InCallersThread);
        longest_own = std::max(longest_own, OwnNanoseconds() - own);
        longest_call = std::max(longest_call, Nanoseconds() - start);
      }
      growth.Time(std::max<int64_t>(1, count - single), [&] {
        if (count > single) Update(table.get(), keys.data() + single, count - single, parallel);
      });
    }
  }

  void Update(GrowingRows* store, const int64_t* keys, int64_t count, const ParallelFor& on) {
    TFPS_CHECK(store->Update({0, 1}, *updater, hyper, {keys, count}, gradients.data(), on).ok());
  }

  void Compare() {
    std::unique_ptr<MatrixRowStore> matrix;
    if (rows <= kMatrixRows) {
      matrix = std::make_unique<MatrixRowStore>(std::vector<float>(rows * dim, 0.5f), dim, std::vector<int64_t>{dim});
    }
    Random random(7);
    std::vector<int64_t> numbers(kBatch), keys(kBatch);
    for (int64_t turn = 0; turn < kTurns; ++turn) {
      for (int64_t& number : numbers) number = random.Integer(0, rows - 1);
      std::sort(numbers.begin(), numbers.end());
      // Updates want each key once.
      numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
      std::shuffle(numbers.begin(), numbers.end(), std::mt19937_64(turn));
      const int64_t count = static_cast<int64_t>(numbers.size());
      for (int64_t i = 0; i < count; ++i) keys[i] = KeyOf(numbers[i]);
      const RowKeys table_keys{keys.data(), count}, matrix_keys{numbers.data(), count};
      const auto copy = [&] { TFPS_CHECK(table->Copy(0, table_keys, true, out.data(), parallel).ok()); };
      const auto matrix_copy = [&] { TFPS_CHECK(matrix->CopyRows(matrix_keys, out.data(), parallel).ok()); };
      const auto update = [&] { Update(table.get(), keys.data(), count, parallel); };
      const auto matrix_update = [&] {
        TFPS_CHECK(matrix->UpdateRows(*updater, hyper, matrix_keys, gradients.data(), parallel).ok());
      };
      // Either goes first in every other turn. The update of a step finds the rows of its lookup in the caches, or not.
      for (int half = 0; half < 2; ++half) {
        if ((turn + half) % 2 == 0) {
          copies.Time(count, copy);
          if (matrix != nullptr) matrix_copies.Time(count, matrix_copy);
        } else {
          updates.Time(count, update);
          if (matrix != nullptr) matrix_updates.Time(count, matrix_update);
        }
        // Other rows for the second half: the first has brought its own into the caches.
        for (int64_t& number : numbers) number = (number + rows / 3 + 1) % rows;
        for (int64_t i = 0; i < count; ++i) keys[i] = KeyOf(numbers[i]);
      }
      numbers.resize(kBatch);
    }
  }

  void Print(double resident) const {
    const GrowthCounts counts = table->Counts();
    const double floats = static_cast<double>(rows * dim * 2) * sizeof(float);
    std::printf("{\"rows\": %ld, \"dim\": %ld, \"bytes_beyond_floats\": %.2f, \"resident_beyond_floats\": %.2f, "
                "\"load\": %.3f, \"probes\": %.3f, \"grow_ns\": %.1f, \"longest_call_ms\": %.3f, \"of_it_on_the_core_ms\": %.3f, "
                "\"copy_ns\": %.1f, \"matrix_copy_ns\": %.1f, \"update_ns\": %.1f, \"matrix_update_ns\": %.1f}\n",
                static_cast<long>(rows), static_cast<long>(dim), (counts.bytes - floats) / rows, (resident - floats) / rows,
                counts.load, counts.probes, growth.Median(), longest_call / 1e6, longest_own / 1e6,
                copies.Median(), matrix_copies.Median(), updates.Median(), matrix_updates.Median());
  }

  const int64_t rows, dim;
  ParallelFor parallel;
  const float hyper[3] = {0.01f, 1e-7f, 0};
  std::unique_ptr<RowUpdater> updater;
  std::vector<float> gradients, out;
  std::shared_ptr<GrowingRows> table;
  Timer growth, copies, matrix_copies, updates, matrix_updates;
  double longest_call = 0, longest_own = 0;
};

}  // namespace
}  // namespace tfps

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: growing_benchmark ROWS DIM [THREADS]\n");
    return 1;
  }
  const double before = tfps::ResidentBytes();
  tfps::Benchmark benchmark(std::atoll(arguments[1]), std::atoll(arguments[2]), count > 3 ? std::atoi(arguments[3]) : 1);
  benchmark.Grow();
  const double resident = tfps::ResidentBytes() - before;
  benchmark.Compare();
  benchmark.Print(resident);
  return 0;
}
