// The layout of coded rows; the loops over their elements are in wire_kernels.inc.
#include "tfps_ops/core/wire/row_codec.h"

#include <cstring>

#include "tfps_ops/core/wire/wire_kernels.h"

namespace tfps {
namespace {

constexpr int64_t kFloatBytes = 4;
// About a nanosecond for four elements.
constexpr int64_t kElementsANanosecond = 4;

int64_t CodedBytes(RowCodec codec, int64_t count, int64_t dim) {
  return codec == RowCodec::kBfloat16 ? 2 * count * dim : count * (dim + 2);
}

}  // namespace

int64_t CodedFloats(RowCodec codec, int64_t count, int64_t dim) {
  return (CodedBytes(codec, count, dim) + kFloatBytes - 1) / kFloatBytes;
}

Status CheckCoded(RowCodec codec, int64_t floats, int64_t count, int64_t dim) {
  // Each row takes at least a byte, so a count above the bytes is wrong before it is multiplied.
  if (count < 0 || count > kFloatBytes * floats || CodedFloats(codec, count, dim) != floats) {
    return InvalidArgument("`coded` must have the floats of ", count, " rows of ", dim, " elements. Received: ", floats, ".");
  }
  return Status();
}

void EncodeRows(RowCodec codec, const float* rows, int64_t count, int64_t dim, bool stochastic, float* coded,
                const ParallelFor& parallel) {
  const int64_t floats = CodedFloats(codec, count, dim);
  if (floats == 0) return;
  // What fills up the last float would otherwise be whatever was in memory.
  coded[floats - 1] = 0.0f;
  const WireKernels& kernels = WireKernelsFor(BestCpuTarget());
  uint16_t* halves = reinterpret_cast<uint16_t*>(coded);
  int8_t* codes = reinterpret_cast<int8_t*>(halves + count);
  parallel(count, 1 + dim / kElementsANanosecond, [&](int64_t begin, int64_t end) {
    const int64_t at = begin * dim;
    const uint32_t first = static_cast<uint32_t>(at);
    if (codec == RowCodec::kBfloat16) {
      kernels.to_bfloat16(rows + at, (end - begin) * dim, first, stochastic, halves + at);
    } else {
      kernels.to_int8(rows + at, end - begin, dim, first, stochastic, halves + begin, codes + at);
    }
  });
}

void DecodeRows(RowCodec codec, const float* coded, int64_t count, int64_t dim, float* rows, const ParallelFor& parallel) {
  const WireKernels& kernels = WireKernelsFor(BestCpuTarget());
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(coded);
  const int8_t* codes = reinterpret_cast<const int8_t*>(halves + count);
  parallel(count, 1 + dim / kElementsANanosecond, [&](int64_t begin, int64_t end) {
    const int64_t at = begin * dim;
    if (codec == RowCodec::kBfloat16) {
      kernels.from_bfloat16(halves + at, (end - begin) * dim, rows + at);
    } else {
      kernels.from_int8(halves + begin, codes + at, end - begin, dim, rows + at);
    }
  });
}

}  // namespace tfps
