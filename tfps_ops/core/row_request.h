// What a server is asked: which rows of which of its pieces. See unique_router.h for the layout.
#ifndef TFPS_OPS_CORE_ROW_REQUEST_H_
#define TFPS_OPS_CORE_ROW_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

namespace tfps {

// Rows wanted of one piece; points into the request.
struct PieceRows {
  const int64_t* rows = nullptr;  // [count], local rows of the piece
  int64_t count = 0;
  int64_t first = 0;              // rows of the request before these
};

// Takes a request of `size` elements apart into [pieces]. It came over a network from a process that may have another
// plan, so nothing is believed. Returns "", or what is wrong with it. Cost: O(pieces).
std::string ReadRequest(const int64_t* request, int64_t size, int64_t pieces, std::vector<PieceRows>* out);

// "", or which of the rows is not in [0, table_rows). Cost: O(count).
std::string CheckRows(const PieceRows& piece, int64_t table_rows);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROW_REQUEST_H_
