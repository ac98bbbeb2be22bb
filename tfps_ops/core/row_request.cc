#include "tfps_ops/core/row_request.h"

#include <cstring>

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

std::string ReadUpdate(const float* message, int64_t size, int64_t hyperparameters, int64_t pieces, int64_t dim,
                       RowUpdate* out) {
  // Each row takes two floats for its number and dim for its gradient, so the size tells how many there are.
  const int64_t rest = size - hyperparameters - 2 * pieces;
  if (rest < 0 || rest % (dim + 2) != 0) {
    return "`message` must hold " + std::to_string(hyperparameters + 2 * pieces) + " floats and " +
           std::to_string(dim + 2) + " for each row. Received: " + std::to_string(size) + ".";
  }
  out->hyperparameters = message;
  out->request.resize(pieces + rest / (dim + 2));
  std::memcpy(out->request.data(), message + hyperparameters, out->request.size() * sizeof(int64_t));
  out->gradients = message + hyperparameters + 2 * out->request.size();
  return ReadRequest(out->request.data(), out->request.size(), pieces, &out->pieces);
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
