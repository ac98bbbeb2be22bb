// Where the rows of one table live: the C++ twin of tfps/placement/routing.py, which owns the rule and explains it.
#ifndef TFPS_OPS_CORE_ROUTING_H_
#define TFPS_OPS_CORE_ROUTING_H_

#include <algorithm>
#include <cstdint>

namespace tfps {

enum class RoutingKind { kDiv, kMod, kHash };

// One row's place.
struct Place {
  int64_t shard;
  int64_t local;
};

// A pure value: copies are cheap and may be used by any number of threads.
struct Routing {
  static constexpr int64_t kPrime = (int64_t{1} << 31) - 1;

  RoutingKind kind = RoutingKind::kDiv;
  int64_t rows = 1;        // 1 to 2^62
  int64_t shards = 1;      // 1 to rows
  int64_t multiplier = 0;  // 0 to kPrime - 1, as offset is
  int64_t offset = 0;

  // Place of row `id`, 0 <= id < rows. Two or three divisions.
  Place Locate(int64_t id) const {
    if (shards == 1) return {0, id};
    const int64_t base = rows / shards, extra = rows % shards;
    if (kind == RoutingKind::kDiv) {
      const int64_t shard = std::max(id / (base + 1), (id - extra) / base);
      return {shard, id - shard * base - std::min(shard, extra)};
    }
    const int64_t local = id / shards, turn = id % shards;
    if (kind == RoutingKind::kMod || local >= base) return {turn, local};
    const int64_t mixed = (local % kPrime * multiplier + offset) % kPrime;
    return {(turn + mixed * mixed % kPrime % shards) % shards, local};
  }
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROUTING_H_
