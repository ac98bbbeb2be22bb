// Rows drawn at random beside each positive one: the negative samples of word2vec and its kin.
//
// A draw is a function of (seed, place), so any number of threads and the TensorFlow graph in
// tfps/ops/draw_targets_graph.py draw the same. A draw costs a product, a shift or two and one fetch from the alias table
// (Walker 1977): column c of it is chosen evenly; its low 32 bits are the row taken in place of c where 32 further random
// bits are not below its high 32 bits. Example of two rows with the weights 3 and 1: {2^32 - 1 : 0, 2^31 : 0}.
#ifndef TFPS_OPS_CORE_NEGATIVE_SAMPLER_H_
#define TFPS_OPS_CORE_NEGATIVE_SAMPLER_H_

#include <cstdint>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/status.h"

namespace tfps {

// What rows are drawn from. Nothing is owned; a value that any number of threads may use.
struct NegativeSampler {
  const int64_t* aliases = nullptr;  // [rows], columns as above; null: each row is as likely as another
  int64_t rows = 0;                  // 2 to 2^31
  uint64_t seed = 0;
};

// Whether every column of the alias table takes a row below `rows`; the error names the first that does not. O(rows).
Status CheckAliases(const NegativeSampler& sampler);

// Whether all of `count` positives are in [0, rows); the error names the first that is not. O(count).
Status CheckPositives(const NegativeSampler& sampler, const int64_t* positives, int64_t count);

// One seed from two numbers, such as the key and the counter of a tf.random.Generator.
uint64_t MixedSeed(int64_t key, int64_t counter);

// targets[i] = {positives[i], then width - 1 rows that are not positives[i]}, [count, width]. One that is drawn equal to
// the positive is drawn anew, up to four times; then its neighbour is taken. Each positive is in [0, rows).
void DrawTargets(const NegativeSampler& sampler, const int64_t* positives, int64_t count, int64_t width,
                 int64_t* targets, const ParallelFor& parallel);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_NEGATIVE_SAMPLER_H_
