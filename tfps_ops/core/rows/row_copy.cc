#include "tfps_ops/core/rows/row_copy.h"

#include "tfps_ops/core/rows/row_conversion.h"

namespace tfps {
namespace {

// Rows ahead of the current one to ask the memory for, as in row_kernels.inc, where 4 to 16 measured alike.
constexpr int64_t kAhead = 8;
// What a row costs when its cache line is not there: about 20 ns, as several are on their way at once.
constexpr int64_t kNanosecondsAFetch = 20;

// A cache line of 64 bytes.
constexpr int64_t kBytesALine = 64;

// Asks the memory for a row. The part of a row behind its last whole line may cross into one more line, unless its length is
// a power of two: rows begin at a multiple of that. Example: with dim 10 a row may lie on the floats 10 to 19, which are in
// two lines; with dim 8 it never does.
inline void Prefetch(const uint8_t* row, int64_t bytes) {
  for (int64_t j = 0; j < bytes; j += kBytesALine) __builtin_prefetch(row + j);
  const int64_t tail = bytes % kBytesALine;
  if ((tail & (tail - 1)) != 0) __builtin_prefetch(row + bytes - 1);
}

}  // namespace

void CopyMatrixRows(const float* matrix, const int64_t* rows, int64_t count, int64_t dim, float* out,
                    const ParallelFor& parallel) {
  CopyStoredRows(matrix, Storage::kFloat32, rows, count, dim, out, parallel);
}

void CopyStoredRows(const void* matrix, Storage storage, const int64_t* rows, int64_t count, int64_t dim, const RowBuffer& out,
                    const ParallelFor& parallel) {
  const uint8_t* const first = static_cast<const uint8_t*>(matrix);
  const int64_t bytes = dim * BytesOf(storage);
  parallel(count, kNanosecondsAFetch + dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + kAhead < end) Prefetch(first + rows[i + kAhead] * bytes, bytes);
      CopyRow(first + rows[i] * bytes, storage, dim, out, i * dim);
    }
  });
}

}  // namespace tfps
