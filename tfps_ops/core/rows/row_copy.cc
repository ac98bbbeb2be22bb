#include "tfps_ops/core/rows/row_copy.h"

#include <cstring>

namespace tfps {
namespace {

// Rows ahead of the current one to ask the memory for, as in row_kernels.inc, where 4 to 16 measured alike.
constexpr int64_t kAhead = 8;
// A cache line of 64 bytes.
constexpr int64_t kFloatsALine = 16;
// What a row costs when its cache line is not there: about 20 ns, as several are on their way at once.
constexpr int64_t kNanosecondsAFetch = 20;

// Asks the memory for a row. The part of a row behind its last whole line may cross into one more line, unless its length is
// a power of two: rows begin at a multiple of that. Example: with dim 10 a row may lie on the floats 10 to 19, which are in
// two lines; with dim 8 it never does.
inline void Prefetch(const float* row, int64_t dim) {
  for (int64_t j = 0; j < dim; j += kFloatsALine) __builtin_prefetch(row + j);
  const int64_t tail = dim % kFloatsALine;
  if ((tail & (tail - 1)) != 0) __builtin_prefetch(row + dim - 1);
}

}  // namespace

void CopyMatrixRows(const float* matrix, const int64_t* rows, int64_t count, int64_t dim, float* out,
                    const ParallelFor& parallel) {
  parallel(count, kNanosecondsAFetch + dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + kAhead < end) Prefetch(matrix + rows[i + kAhead] * dim, dim);
      std::memcpy(out + i * dim, matrix + rows[i] * dim, dim * sizeof(float));
    }
  });
}

}  // namespace tfps
