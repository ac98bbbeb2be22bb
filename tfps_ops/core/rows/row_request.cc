// Messages are read from the front, and everything that their sizes imply is checked before it is used: a count by what is
// left of the message, a size by what divides it.
#include "tfps_ops/core/rows/row_request.h"

#include <cstring>
#include <utility>

namespace tfps {

Result<std::vector<PieceRows>> ReadRequest(const int64_t* request, int64_t size, int64_t pieces) {
  if (size < pieces) {
    // "Table" in these messages: users know tables, and a server's pieces are in the order of its tables.
    return InvalidArgument("`request` must begin with a count for each of ", pieces, " tables. Received: ", size,
                           " elements.");
  }
  std::vector<PieceRows> split;
  // `pieces` is the server's own number of tables, and not from the message: it may be reserved for.
  split.reserve(pieces);
  int64_t first = 0;
  for (int64_t p = 0; p < pieces; ++p) {
    const int64_t count = request[p];
    // Compared with what is left, not summed first: counts such as 2^62 would overflow a sum.
    if (count < 0 || count > size - pieces - first) {
      return InvalidArgument("the counts of `request` must be at least 0 and add up to its ", size - pieces,
                             " rows. Received: ", count, " for table ", p, ".");
    }
    split.push_back({request + pieces + first, count, first});
    first += count;
  }
  if (first != size - pieces) {
    return InvalidArgument("the counts of `request` must add up to its ", size - pieces, " rows. Received: ", first,
                           " in all.");
  }
  return split;
}

Result<RowUpdate> ReadUpdate(const float* message, int64_t size, int64_t hyperparameters, int64_t pieces, int64_t dim,
                             bool any_key) {
  const auto refused = [&](int64_t rows, int64_t repeated) {
    return InvalidArgument("`message` must hold ", hyperparameters + 2 * pieces, " floats, ", dim + 2, " for each of its ", rows,
                           " rows and ", dim, " for each of the ", repeated, " that repeat. Received: ", size, " floats.");
  };
  // Each row takes two floats for its number and dim for its gradient.
  // Example: 3 hyperparameters, 2 pieces and dim 4 take 7 floats; 19 floats then are 2 rows of 6.
  const int64_t rest = size - hyperparameters - 2 * pieces;
  if (rest < 0) return refused(0, 0);
  // The bits of the request begin after an odd number of floats as often as not, so int64s are not read in place.
  const auto copy = [&](int64_t elements, std::vector<int64_t>* out) {
    out->resize(elements);
    // A server without pieces has an empty request, whose address memcpy must not be given.
    if (elements > 0) std::memcpy(out->data(), message + hyperparameters, elements * sizeof(int64_t));
  };
  RowUpdate update;
  copy(pieces, &update.request);
  int64_t rows = 0;
  for (int64_t p = 0; p < pieces; ++p) {
    const int64_t count = update.request[p];
    // Compared with what is left, not summed first, as in ReadRequest.
    if (count < 0 || count > rest / (dim + 2) - rows) {
      return InvalidArgument("the counts of `message` must be at least 0 and add up to at most ", rest / (dim + 2),
                             " rows. Received: ", count, " for table ", p, ".");
    }
    rows += count;
  }
  copy(pieces + rows, &update.request);
  // Floats are used where they lie.
  update.hyperparameters = message;
  update.gradients = message + hyperparameters + 2 * (pieces + rows);
  const float* measures = update.gradients + rows * dim;
  int64_t repeated = 0;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t& row = update.request[pieces + r];
    // A negative number is no row, whatever its bits; the store refuses it.
    if (any_key || row < kRepeats) continue;
    row -= kRepeats;
    if (update.measures.empty()) update.measures.resize(rows);
    // Read below only if the size is right.
    update.measures[r] = measures + repeated++ * dim;
  }
  if (rest != rows * (dim + 2) + repeated * dim) return refused(rows, repeated);
  auto split = ReadRequest(update.request.data(), update.request.size(), pieces);
  if (!split.ok()) return split.status();
  update.pieces = std::move(split.value());
  return update;
}

}  // namespace tfps
