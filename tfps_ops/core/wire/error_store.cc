// Three passes: who had each place, who gets it, and then the rows, a few at a time so that they stay in the cache.
#include "tfps_ops/core/wire/error_store.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tfps_ops/core/rows/row_request.h"

namespace tfps {
namespace {

// Of a row beside what its encoding costs: about two fetches from memory.
constexpr int64_t kNanosecondsARow = 40;

}  // namespace

int64_t KeyOf(int64_t piece, int64_t row) {
  // The end of splitmix64, which maps different numbers to different numbers.
  uint64_t key = static_cast<uint64_t>(row) + static_cast<uint64_t>(piece) * 0x9E3779B97F4A7C15u + 0x9E3779B97F4A7C15u;
  key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
  key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
  key ^= key >> 31;
  return key == 0 ? 1 : static_cast<int64_t>(key);
}

Status EncodeWithErrors(RowCodec codec, const int64_t* request, int64_t request_size, int64_t pieces, bool marked,
                        const float* rows, int64_t dim, const ErrorStore& store, float* coded, const ParallelFor& parallel) {
  Result<std::vector<PieceRows>> read = ReadRequest(request, request_size, pieces);
  TFPS_RETURN_IF_ERROR(read.status());
  const int64_t count = request_size - pieces;
  std::vector<int64_t> keys(count), places(count);
  std::vector<char> had(count);
  for (int64_t p = 0; p < pieces; ++p) {
    const PieceRows& piece = read.value()[p];
    for (int64_t i = 0; i < piece.count; ++i) {
      const int64_t key = KeyOf(p, marked ? piece.rows[i] & ~kRepeats : piece.rows[i]);
      keys[piece.first + i] = key;
      places[piece.first + i] = static_cast<int64_t>(static_cast<uint64_t>(key) >> (64 - store.places_log2));
    }
  }
  for (int64_t i = 0; i < count; ++i) had[i] = store.keys[places[i]] == keys[i];
  // The last row of the push that has a place gets it.
  for (int64_t i = 0; i < count; ++i) store.keys[places[i]] = keys[i];
  std::vector<float> sums(count * dim), sent(count * dim);
  parallel(count, kNanosecondsARow + dim, [&](int64_t begin, int64_t end) {
    std::memcpy(sums.data() + begin * dim, rows + begin * dim, (end - begin) * dim * sizeof(float));
    for (int64_t i = begin; i < end; ++i) {
      if (!had[i] || store.keys[places[i]] != keys[i]) continue;
      const float* error = store.errors + places[i] * dim;
      float* sum = sums.data() + i * dim;
      for (int64_t j = 0; j < dim; ++j) sum[j] += error[j];
    }
  });
  EncodeRows(codec, sums.data(), count, dim, true, coded, parallel);
  DecodeRows(codec, coded, count, dim, sent.data(), parallel);
  parallel(count, kNanosecondsARow + dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (store.keys[places[i]] != keys[i]) continue;
      float* error = store.errors + places[i] * dim;
      for (int64_t j = 0; j < dim; ++j) {
        const float left = sums[i * dim + j] - sent[i * dim + j];
        // What is not finite is sent as it is, and must not come back with the next push.
        error[j] = std::isfinite(left) ? left : 0.0f;
      }
    }
  });
  return Status();
}

}  // namespace tfps
