#include "tfps_ops/core/row_request.h"

namespace tfps {

std::string ReadRequest(const int64_t* request, int64_t size, int64_t pieces, std::vector<PieceRows>* out) {
  if (size < pieces) {
    return "`request` must begin with a count for each of " + std::to_string(pieces) +
           " tables. Received: " + std::to_string(size) + " elements.";
  }
  int64_t first = 0;
  for (int64_t p = 0; p < pieces; ++p) {
    const int64_t count = request[p];
    if (count < 0 || count > size - pieces - first) {
      return "the counts of `request` must be at least 0 and add up to its " + std::to_string(size - pieces) +
             " rows. Received: " + std::to_string(count) + " for table " + std::to_string(p) + ".";
    }
    out->push_back({request + pieces + first, count, first});
    first += count;
  }
  if (first != size - pieces) {
    return "the counts of `request` must add up to its " + std::to_string(size - pieces) +
           " rows. Received: " + std::to_string(first) + " in all.";
  }
  return "";
}

std::string CheckRows(const PieceRows& piece, int64_t table_rows) {
  for (int64_t i = 0; i < piece.count; ++i) {
    if (piece.rows[i] < 0 || piece.rows[i] >= table_rows) {
      return "rows must be at least 0 and below " + std::to_string(table_rows) +
             ". Received: " + std::to_string(piece.rows[i]) + ".";
    }
  }
  return "";
}

}  // namespace tfps
