// Forward, threads split the bags; for the gradient of the rows they split the rows, and each reads all elements. So no two
// threads write to one row, and each adds in the order of the elements: any number of threads gives the same bits.
#include "tfps_ops/core/rows/segment_combine.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "tfps_ops/core/row_kernels.h"

namespace tfps {
namespace {

// The elements [begin, end) of bag `index`.
// One bag as the loops see it; example: bag 2 of the segments {0, 0, 2} is {2, 2, 3}.
struct Bag {
  int64_t index;
  int64_t begin;
  int64_t end;
};

// Runs `work` on every bag, empty ones too: their row of the result must be written as well.
template <class Work>
void ForEachBag(const Bags& bags, int64_t nanoseconds, const ParallelFor& parallel, const Work& work) {
  parallel(bags.count, nanoseconds, [&](int64_t first, int64_t last) {
    const int64_t* end = bags.segments + bags.elements;
    // Segments ascend, so the first element of a thread's bags is found by bisection.
    int64_t at = std::lower_bound(bags.segments, end, first) - bags.segments;
    for (int64_t index = first; index < last; ++index) {
      const int64_t begin = at;
      while (at < bags.elements && bags.segments[at] == index) ++at;
      work(Bag{index, begin, at});
    }
  });
}

// What a bag costs on average: about a nanosecond for four floats, and two for whatever else an element takes.
int64_t NanosecondsABag(const Bags& bags) {
  return bags.count == 0 ? 1 : 1 + (bags.elements + bags.count) * (2 + bags.dim / 4) / bags.count;
}

// What the weighted sum of a bag is divided by.
// Example: the weights 3 and 4 give 7 for mean and 5 for sqrtn.
float Divisor(const Bags& bags, const Bag& bag) {
  if (bags.combiner == Combiner::kSum) return 1;
  const bool squared = bags.combiner == Combiner::kSqrtn;
  float total = 0;
  if (bags.weights == nullptr) total = static_cast<float>(bag.end - bag.begin);
  // Summed in the order of the elements, whatever the number of threads.
  for (int64_t i = bag.begin; bags.weights != nullptr && i < bag.end; ++i) {
    total += squared ? bags.weights[i] * bags.weights[i] : bags.weights[i];
  }
  return squared ? std::sqrt(total) : total;
}

// weight / divisor of each element, [elements]: the factor of its bag's gradient in the gradient of its row.
std::vector<float> Shares(const Bags& bags, const ParallelFor& parallel) {
  std::vector<float> shares(bags.elements);
  ForEachBag(bags, 1 + 2 * bags.elements / std::max<int64_t>(1, bags.count), parallel, [&](const Bag& bag) {
    // A divisor of 0 gives the bag a result of 0, which no weight changes: so gradients are 0 too, and never infinite.
    const float divisor = Divisor(bags, bag);
    for (int64_t i = bag.begin; i < bag.end; ++i) {
      shares[i] = divisor == 0 ? 0 : (bags.weights == nullptr ? 1 : bags.weights[i]) / divisor;
    }
  });
  return shares;
}

// Turns the products that the kernel has written, out[i] = gradient of the bag * row of element i, into the gradients of the
// weights: the quotient rule, as the divisor depends on the weights too. With W, the divisor, and
// t = sum(w * out): sum: out; mean: (out - t / W) / W; sqrtn: (out - t * w / W^2) / W.
void FromProducts(const Bags& bags, const Bag& bag, float* out) {
  if (bags.combiner == Combiner::kSum) return;
  const float divisor = Divisor(bags, bag);
  const bool mean = bags.combiner == Combiner::kMean;
  float total = 0;
  for (int64_t i = bag.begin; i < bag.end; ++i) total += bags.weights[i] * out[i];
  for (int64_t i = bag.begin; i < bag.end; ++i) {
    const float taken = mean ? total / divisor : total / divisor * (bags.weights[i] / divisor);
    out[i] = divisor == 0 ? 0 : (out[i] - taken) / divisor;
  }
}

}  // namespace

Status CheckBags(const Bags& bags) {
  int64_t before = 0;
  for (int64_t i = 0; i < bags.elements; ++i) {
    const bool in_rows = bags.places[i] >= 0 && bags.places[i] < bags.rows;
    if (!in_rows || bags.segments[i] < before || bags.segments[i] >= bags.count) {
      return InvalidArgument("`places` must be at least 0 and below the rows, ", bags.rows,
                             ", and `segments` ascending, at least 0 and below the bags, ", bags.count,
                             ". Received: place ", bags.places[i], " in segment ", bags.segments[i], " as element ", i, ".");
    }
    before = bags.segments[i];
  }
  return Status();
}

void CombineRows(const Bags& bags, const float* rows, float* combined, const ParallelFor& parallel) {
  const RowKernels& kernels = RowKernelsFor(BestCpuTarget());
  ForEachBag(bags, NanosecondsABag(bags), parallel, [&](const Bag& bag) {
    // The kernel is told how many elements follow the bag, so that it can prefetch the rows of the next bags: short bags
    // would otherwise wait for each of theirs.
    const float* weights = bags.weights == nullptr ? nullptr : bags.weights + bag.begin;
    // One call a bag: its sum stays in registers until it is divided and stored.
    kernels.pool({rows, bags.places + bag.begin, weights, bag.end - bag.begin, bags.elements - bag.begin, bags.dim,
                  Divisor(bags, bag), combined + bag.index * bags.dim});
  });
}

void CombineRowsGradient(const Bags& bags, const float* gradients, float* sums, const ParallelFor& parallel) {
  const RowKernels& kernels = RowKernelsFor(BestCpuTarget());
  const std::vector<float> shares = Shares(bags, parallel);
  // Each thread reads all elements and writes its rows, so what a row costs grows with the elements.
  const int64_t nanoseconds = bags.rows == 0 ? 1 : 1 + (bags.rows + bags.elements) * bags.dim / (4 * bags.rows);
  // As in segment_sum.cc: threads split the rows of the result.
  parallel(bags.rows, nanoseconds, [&](int64_t begin, int64_t end) {
    std::fill(sums + begin * bags.dim, sums + end * bags.dim, 0.0f);
    kernels.add_shares({gradients, bags.segments, shares.data(), bags.places, bags.elements, bags.dim, begin, end, sums});
  });
}

void CombineWeightsGradient(const Bags& bags, const float* gradients, const float* rows, float* out,
                            const ParallelFor& parallel) {
  const RowKernels& kernels = RowKernelsFor(BestCpuTarget());
  ForEachBag(bags, NanosecondsABag(bags), parallel, [&](const Bag& bag) {
    // The product of the bag's gradient with each of its rows; the divisor comes after.
    kernels.dot({gradients + bag.index * bags.dim, rows, bags.places + bag.begin, bag.end - bag.begin, bags.dim,
                 out + bag.begin});
    FromProducts(bags, bag, out);
  });
}

}  // namespace tfps
