// What a server is asked and told: which rows of which of its pieces, and what gradients they get.
//
// Both came over a network from a process that may have another plan, so nothing in them is believed.
// Cost: O(pieces) for a request, O(rows) for an update, whose rows are copied because they are not aligned.
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

// Takes a request of `size` elements apart into [pieces]; its layout is explained in unique_router.h.
// Returns "", or what is wrong with it.
std::string ReadRequest(const int64_t* request, int64_t size, int64_t pieces, std::vector<PieceRows>* out);

// An update: the hyperparameters, then the bits of a request (two floats an element), then a gradient for each of its rows.
// One tensor, because each tensor that crosses to a server costs a message.
struct RowUpdate {
  const float* hyperparameters = nullptr;
  const float* gradients = nullptr;  // [rows, dim]
  std::vector<int64_t> request;      // an aligned copy
  std::vector<PieceRows> pieces;     // point into `request`
};

// Takes an update of `size` floats apart. Returns "", or what is wrong with it.
std::string ReadUpdate(const float* message, int64_t size, int64_t hyperparameters, int64_t pieces, int64_t dim,
                       RowUpdate* out);

// "", or which of the rows is not in [0, table_rows). Cost: O(count).
std::string CheckRows(const PieceRows& piece, int64_t table_rows);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROW_REQUEST_H_
