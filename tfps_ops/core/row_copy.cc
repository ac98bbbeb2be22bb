#include "tfps_ops/core/row_copy.h"

#include <cstring>

namespace tfps {
namespace {

constexpr int64_t kAhead = 8;
constexpr int64_t kFloatsALine = 16;

// What is left of a row behind its last whole line may cross into one more, unless it is a power of two: rows begin at a
// multiple of that.
inline void Prefetch(const float* row, int64_t dim) {
  for (int64_t j = 0; j < dim; j += kFloatsALine) __builtin_prefetch(row + j);
  const int64_t tail = dim % kFloatsALine;
  if ((tail & (tail - 1)) != 0) __builtin_prefetch(row + dim - 1);
}

}  // namespace

void CopyRows(const float* table, const PieceRows& piece, int64_t dim, float* out, const ParallelFor& parallel) {
  // A cache line that is not there costs about 20 ns when several are asked for at once.
  parallel(piece.count, 20 + dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + kAhead < end) Prefetch(table + piece.rows[i + kAhead] * dim, dim);
      std::memcpy(out + i * dim, table + piece.rows[i] * dim, dim * sizeof(float));
    }
  });
}

}  // namespace tfps
