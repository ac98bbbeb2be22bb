// The first value of a row, from (seed, key) alone: the same whatever the order, the workers or the servers.
//
// Uniform and normal values are those that TensorFlow's stateless random ops draw for a matrix [rows, dim]: element j of row
// `key` is number (key * dim + j) of the Philox stream of (key, counter), in 128-bit arithmetic with the key as unsigned. So ids
// 0..n-1 begin with the values of a Keras Embedding with the same seed. Philox4x32-10: Salmon et al., "Parallel random numbers:
// as easy as 1, 2, 3", SC 2011.
#ifndef TFPS_OPS_CORE_GROWING_FIRST_VALUE_H_
#define TFPS_OPS_CORE_GROWING_FIRST_VALUE_H_

#include <cstdint>

namespace tfps {

struct FirstValue {
  enum class Kind {
    kConstant,         // a
    kUniform,          // [a, b)
    kNormal,           // mean a, standard deviation b
    kTruncatedNormal,  // the same, drawn again beyond two standard deviations; a stream of its own for each row
  };
  Kind kind = Kind::kConstant;
  float a = 0;
  float b = 0;
  uint64_t key = 0;            // of the stream, as StatelessRandomGetKeyCounter gives it
  uint64_t counter[2] = {0, 0};  // where the stream begins; the low word first
};

// Writes the first value of the row of `row_key` to out, [dim]. Pure, any thread.
void WriteFirstValue(const FirstValue& first, int64_t row_key, int64_t dim, float* out);

// The mean of first values: a for all but kUniform, whose mean is (a + b) / 2.
float MeanFirstValue(const FirstValue& first);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_FIRST_VALUE_H_
