// Rows in fewer bytes, for one message between a worker and a server.
//
// A message is a tensor of floats, each of which is 4 bytes of anything: other parts of the message are floats, and every part
// begins at one. Rows of bfloat16 are [count, dim] numbers of 2 bytes; rows of int8 are [count] scales of 2 bytes and then
// [count, dim] codes of 1 byte. The last float is filled up with zeros. Bytes are in the order of the machine, which all
// machines of a cluster share.
//
// Example: 3 rows of 16 floats take 192 bytes, 96 as bfloat16, and 3 * 2 + 48, filled up to 56, as int8.
//
// Cost: one pass over the rows. Threads: rows are split between the threads of `parallel`; any number gives the same bytes.
#ifndef TFPS_OPS_CORE_WIRE_ROW_CODEC_H_
#define TFPS_OPS_CORE_WIRE_ROW_CODEC_H_

#include <cstdint>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/status.h"

namespace tfps {

enum class RowCodec { kBfloat16, kInt8 };

// The floats that rows take. `count` and `dim` must be at least 0 and their product below 2^60.
int64_t CodedFloats(RowCodec codec, int64_t count, int64_t dim);

// Whether `floats` can be `count` rows; the error says what they would take. `count` comes with a message, so it may be
// anything.
Status CheckCoded(RowCodec codec, int64_t floats, int64_t count, int64_t dim);

// Writes rows, [count, dim], to `coded`, [CodedFloats]. wire_kernels.h says how they are rounded.
void EncodeRows(RowCodec codec, const float* rows, int64_t count, int64_t dim, bool stochastic, float* coded,
                const ParallelFor& parallel);

// Reads what EncodeRows wrote.
void DecodeRows(RowCodec codec, const float* coded, int64_t count, int64_t dim, float* rows, const ParallelFor& parallel);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_WIRE_ROW_CODEC_H_
