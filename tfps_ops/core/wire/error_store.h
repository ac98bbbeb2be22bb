// Error feedback for rows: what rounding took from a row of a push is added to the next push of the same row.
//
// Without it, the errors of a row add up like the steps of a drunkard; with it, all that a worker has sent of a row is what it
// meant to send, less the one error that waits here. The store is a table of bounded size without chains: a row has one
// place, which a hash of its key gives, and takes it from whoever has it. The error that is lost then is at most one step of
// the rounding, and zero in the mean, because rows are rounded stochastically.
//
// Example: a store of 4 places and the rows 10, 11 and 12, of which 11 and 12 have the same place. A push of all three leaves
// the errors of 10 and 12, because of the rows of one push the last one gets the place.
//
// Memory: 8 + 4 * dim bytes a place, owned by the caller. Cost: one fetch of a place for each row.
// Threads: the caller holds a lock; rows are split between the threads of `parallel`, as no two of them write to one place.
#ifndef TFPS_OPS_CORE_WIRE_ERROR_STORE_H_
#define TFPS_OPS_CORE_WIRE_ERROR_STORE_H_

#include <cstdint>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/status.h"
#include "tfps_ops/core/wire/row_codec.h"

namespace tfps {

// The places of a store; nothing is owned. All is 0 at first.
struct ErrorStore {
  int64_t* keys = nullptr;  // [places], 0 for a free place
  float* errors = nullptr;  // [places, dim]
  int places_log2 = 1;      // 1 to 62: the number of places is a power of two
};

// The key of a row: a mixture of its piece and local row, never 0.
int64_t KeyOf(int64_t piece, int64_t row);

// Does what EncodeRows does, stochastically, for the rows of a request plus their errors, and stores the new errors.
// `request`, of `pieces` counts and then the rows, each once within its piece, says whose the rows are; `marked` for one that
// may have kRepeats. An InvalidArgument error where its counts do not fit.
Status EncodeWithErrors(RowCodec codec, const int64_t* request, int64_t request_size, int64_t pieces, bool marked,
                        const float* rows, int64_t dim, const ErrorStore& store, float* coded, const ParallelFor& parallel);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_WIRE_ERROR_STORE_H_
