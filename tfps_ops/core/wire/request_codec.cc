// Row numbers are copied by their lowest bytes: the machines are little-endian, as the bits of every message here assume.
#include "tfps_ops/core/wire/request_codec.h"

#include <cstring>

#include "tfps_ops/core/rows/row_request.h"

namespace tfps {
namespace {

constexpr int64_t kFloatBytes = 4, kCountBytes = 4, kMostWidth = 8;
constexpr int64_t kMostRows = int64_t{1} << 32;

// The bytes of the largest row number of a piece; 1 for a piece without rows.
int64_t WidthOf(const PieceRows& piece, bool marked) {
  uint64_t used = 0;
  for (int64_t i = 0; i < piece.count; ++i) used |= static_cast<uint64_t>(piece.rows[i]);
  if (marked) used &= ~static_cast<uint64_t>(kRepeats);
  int64_t width = 1;
  while (width < kMostWidth && used >> (8 * width) != 0) ++width;
  return width;
}

// With the width known to the compiler, each copy is one or two instructions.
template <int kWidth>
void PutRows(const int64_t* rows, int64_t count, uint64_t mask, uint8_t* out) {
  for (int64_t i = 0; i < count; ++i, out += kWidth) {
    const uint64_t row = static_cast<uint64_t>(rows[i]) & mask;
    std::memcpy(out, &row, kWidth);
  }
}

template <int kWidth>
void TakeRows(const uint8_t* in, int64_t count, int64_t* rows) {
  for (int64_t i = 0; i < count; ++i, in += kWidth) {
    uint64_t row = 0;
    std::memcpy(&row, in, kWidth);
    rows[i] = static_cast<int64_t>(row);
  }
}

using Put = void (*)(const int64_t*, int64_t, uint64_t, uint8_t*);
using Take = void (*)(const uint8_t*, int64_t, int64_t*);
constexpr Put kPut[] = {PutRows<1>, PutRows<2>, PutRows<3>, PutRows<4>, PutRows<5>, PutRows<6>, PutRows<7>, PutRows<8>};
constexpr Take kTake[] = {TakeRows<1>, TakeRows<2>, TakeRows<3>, TakeRows<4>,
                          TakeRows<5>, TakeRows<6>, TakeRows<7>, TakeRows<8>};

}  // namespace

Result<std::vector<float>> EncodeRequest(const int64_t* request, int64_t size, int64_t pieces, bool marked) {
  Result<std::vector<PieceRows>> read = ReadRequest(request, size, pieces);
  TFPS_RETURN_IF_ERROR(read.status());
  const int64_t rows = size - pieces;
  if (rows >= kMostRows) return InvalidArgument("`request` must have less than 2^32 rows. Received: ", rows, ".");
  std::vector<uint8_t> widths;
  int64_t bytes = pieces * (kCountBytes + 1) + (marked ? (rows + 7) / 8 : 0);
  for (const PieceRows& piece : read.value()) {
    widths.push_back(static_cast<uint8_t>(WidthOf(piece, marked)));
    bytes += widths.back() * piece.count;
  }
  std::vector<float> coded((bytes + kFloatBytes - 1) / kFloatBytes, 0.0f);
  uint8_t* out = reinterpret_cast<uint8_t*>(coded.data());
  for (int64_t p = 0; p < pieces; ++p, out += kCountBytes) {
    const uint32_t count = static_cast<uint32_t>(request[p]);
    std::memcpy(out, &count, kCountBytes);
  }
  std::memcpy(out, widths.data(), pieces);
  out += pieces;
  const uint64_t mask = marked ? ~static_cast<uint64_t>(kRepeats) : ~uint64_t{0};
  for (int64_t p = 0; p < pieces; ++p) {
    const PieceRows& piece = read.value()[p];
    kPut[widths[p] - 1](piece.rows, piece.count, mask, out);
    out += widths[p] * piece.count;
  }
  for (int64_t i = 0; marked && i < rows; ++i) {
    if (request[pieces + i] & kRepeats) out[i / 8] |= static_cast<uint8_t>(1 << (i % 8));
  }
  return coded;
}

Result<std::vector<int64_t>> DecodeRequest(const float* coded, int64_t floats, int64_t pieces, bool marked) {
  const Status refused = InvalidArgument("`coded` must be a request for ", pieces, " pieces. Received: ", floats,
                                         " floats that are none.");
  const uint8_t* in = reinterpret_cast<const uint8_t*>(coded);
  int64_t left = floats * kFloatBytes - pieces * (kCountBytes + 1);
  if (left < 0) return refused;
  const uint8_t* widths = in + pieces * kCountBytes;
  std::vector<int64_t> request(pieces);
  int64_t rows = 0;
  for (int64_t p = 0; p < pieces; ++p) {
    uint32_t count;
    std::memcpy(&count, in + p * kCountBytes, kCountBytes);
    if (widths[p] < 1 || widths[p] > kMostWidth) return refused;
    left -= static_cast<int64_t>(count) * widths[p];
    if (left < 0) return refused;
    request[p] = count;
    rows += count;
  }
  if (marked) left -= (rows + 7) / 8;
  // Only what fills up the last float may be over.
  if (left < 0 || left >= kFloatBytes) return refused;
  request.resize(pieces + rows);
  in = widths + pieces;
  int64_t at = pieces;
  for (int64_t p = 0; p < pieces; ++p) {
    const int64_t count = request[p];
    kTake[widths[p] - 1](in, count, request.data() + at);
    in += count * widths[p];
    at += count;
  }
  for (int64_t i = 0; marked && i < rows; ++i) {
    if (in[i / 8] >> (i % 8) & 1) request[pieces + i] |= kRepeats;
  }
  return request;
}

}  // namespace tfps
