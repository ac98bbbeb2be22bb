// Requests in fewer bytes: the row numbers of a piece take as many bytes each as the largest of them needs.
//
// A request (unique_router.h) has a count for each piece and then the local rows, int64 each, in the order in which the step
// first asked for them, so there are no small differences to write down instead. But a table of 60,000 rows needs 2 bytes a
// row number, and one of 16 million rows 3. Ids of a table that grows may need all 8.
//
// Layout: [pieces] counts, 4 bytes each; [pieces] widths, 1 byte each; the rows of each piece, width bytes each, the lowest
// byte first; and for the rows of an update that may repeat, a bit for each row, whether kRepeats was added to its number. All
// of it is filled up with zeros to whole floats.
//
// Example: the request [2, 1, 7, 300, 5] takes 40 bytes; coded 2 * 4 + 2 + 2 * 2 + 1 = 15, filled up to 16.
//
// A message comes over a network: reading checks every count, width and size. Cost: one pass. Threads: pure functions.
#ifndef TFPS_OPS_CORE_WIRE_REQUEST_CODEC_H_
#define TFPS_OPS_CORE_WIRE_REQUEST_CODEC_H_

#include <cstdint>
#include <vector>

#include "tfps_ops/core/status.h"

namespace tfps {

// Writes a request of `size` elements for `pieces` pieces; `marked` for one that may have kRepeats. Returns the bytes, whole
// floats of them. An InvalidArgument error where the counts do not fit the rows.
Result<std::vector<float>> EncodeRequest(const int64_t* request, int64_t size, int64_t pieces, bool marked);

// Reads what EncodeRequest wrote.
Result<std::vector<int64_t>> DecodeRequest(const float* coded, int64_t floats, int64_t pieces, bool marked);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_WIRE_REQUEST_CODEC_H_
