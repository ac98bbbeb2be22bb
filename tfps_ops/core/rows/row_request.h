// The messages of workers to a server: which rows of which of its pieces, and what gradients they get.
//
// Both come over a network, from a process that may have another plan. So nothing in them is trusted: every count and size is
// checked here, and every row by the store that it belongs to, before any memory is touched.
//
// Example, a server with two pieces and rows of 2 floats. The request [2, 1, 7, 0, 5] asks for the local rows 7 and 0 of
// piece 0 and for row 5 of piece 1. The update of the same rows is, as floats,
//   [hyperparameters][bits of 2 1 7 0 5, ten floats][g7 g7 g0 g0 g5 g5]
// If the id of row 0 repeats in the batch and its gradients are not summed first, its number is 0 + kRepeats, and the measures
// of its gradients (RuleBase::Measure), which are summed too, follow the gradients: [... g5 g5][q0 q0]
//
// Cost: O(pieces) for a request, O(rows) for an update, whose rows are copied because they are not aligned.
// Threads: pure functions. Nothing is kept; what they return points into the message, which must outlive it.
#ifndef TFPS_OPS_CORE_ROWS_ROW_REQUEST_H_
#define TFPS_OPS_CORE_ROWS_ROW_REQUEST_H_

#include <cstdint>
#include <vector>

#include "tfps_ops/core/status.h"

namespace tfps {

// Added to the number of a row in an update that brings measures for it. Tables are smaller than that.
constexpr int64_t kRepeats = int64_t{1} << 62;

// The rows that a message names of one piece; points into the request.
struct PieceRows {
  const int64_t* rows = nullptr;  // [count], local rows of the piece
  int64_t count = 0;
  int64_t first = 0;              // rows of the request before these
};

// Splits a request of `size` elements into its pieces; unique_router.h, which writes requests, explains the layout.
// An InvalidArgument error where the counts are negative or do not add up to the rows that follow them.
Result<std::vector<PieceRows>> ReadRequest(const int64_t* request, int64_t size, int64_t pieces);

// An update: the hyperparameters, then the bits of a request (two floats an element), then a gradient for each of its rows,
// then the measures of each row that repeats.
// It is one tensor because each tensor that crosses to a server costs a message.
struct RowUpdate {
  const float* hyperparameters = nullptr;  // points into the message, as gradients does
  const float* gradients = nullptr;        // [rows, dim], in the order of the request
  std::vector<const float*> measures;      // [rows], null for a row that does not repeat; empty if none does
  std::vector<int64_t> request;            // an aligned copy, without kRepeats
  std::vector<PieceRows> pieces;           // point into `request`, and stay valid when the update is moved
};

// Splits an update of `size` floats. With `any_key`, rows have keys of all 64 bits, so none has measures. An InvalidArgument error where its rows do not give that size, or the request in it is
// wrong.
Result<RowUpdate> ReadUpdate(const float* message, int64_t size, int64_t hyperparameters, int64_t pieces, int64_t dim,
                             bool any_key = false);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROWS_ROW_REQUEST_H_
