// Where the rows of one table live: the C++ twin of tfps/placement/routing.py, which owns the rule and explains it.
//
// Row id -> (shard, local row), by arithmetic alone; no table of places is kept. Example, 10 rows on 4 shards, of which the
// first two (10 % 4) hold one row more:
//   div   keeps ranges together:  0 1 2 | 3 4 5 | 6 7 | 8 9
//   mod   deals rows out in turn: 0 4 8 | 1 5 9 | 2 6 | 3 7
//   hash  deals out in turn, but rotates each block of neighbours by a number that looks random, so that ids with a pattern
//         (all even ones, say) do not pile up on a shard
// Tables that grow have ids of all 64 bits and no numbered rows, so none of these fits:
//   key   keeps the row of an id on the shard that a hash of the id gives, under the id itself
#ifndef TFPS_OPS_CORE_ROUTING_ROUTING_H_
#define TFPS_OPS_CORE_ROUTING_ROUTING_H_

#include <algorithm>
#include <cstdint>

namespace tfps {

// How a table is split; see the example above.
enum class RoutingKind { kDiv, kMod, kHash, kKey };

// One row's place: the shard, and the row's number within it.
struct Place {
  int64_t shard;
  int64_t local;
};

// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with the
// constants of Stafford's variant 13), by which ids of tables that grow go to shards. A bijection.
inline uint64_t MixKey(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The rule of one table. A pure value, as Locator is: any number of threads may use it.
struct Routing {
  // The prime of the rotation: a product of two numbers below it fits an int64.
  static constexpr int64_t kPrime = (int64_t{1} << 31) - 1;

  RoutingKind kind = RoutingKind::kDiv;
  int64_t rows = 1;        // 1 to 2^62; for kKey how many are expected
  int64_t shards = 1;      // 1 to rows
  int64_t multiplier = 0;  // 0 to kPrime - 1, as offset is
  int64_t offset = 0;

  // Whether the table may have a row for `id`.
  bool Has(int64_t id) const { return kind == RoutingKind::kKey || (id >= 0 && id < rows); }

  // Rows that every shard holds, and how many shards hold one more.
  int64_t base() const { return rows / shards; }
  int64_t extra() const { return rows % shards; }
};

// Answers where rows live. What a table's ids have in common is worked out once.
class Locator {
 public:
  explicit Locator(const Routing& routing)
      : routing_(routing), base_(routing.base()), extra_(routing.extra()), small_(routing.rows <= UINT32_MAX) {}

  // Place of row `id`, which the table must have. One or two divisions, of 32 bits where the table allows: they take a third as long.
  Place operator()(int64_t id) const {
    if (routing_.shards == 1) return {0, id};
    // The high half of the hash: 31 bits, which are the better mixed ones, and never negative.
    if (routing_.kind == RoutingKind::kKey) {
      return {static_cast<int64_t>((MixKey(static_cast<uint64_t>(id)) >> 33) % static_cast<uint64_t>(routing_.shards)), id};
    }
    if (routing_.kind == RoutingKind::kDiv) {
      // Only the second quotient may be negative, and then the first is 0 and wins.
      const int64_t shard = std::max(Divide(id, base_ + 1), id < extra_ ? 0 : Divide(id - extra_, base_));
      return {shard, id - shard * base_ - std::min(shard, extra_)};
    }
    const int64_t local = Divide(id, routing_.shards), turn = id - local * routing_.shards;
    if (routing_.kind == RoutingKind::kMod || local >= base_) return {turn, local};
    const int64_t shard = turn + Rotation(local);
    return {shard < routing_.shards ? shard : shard - routing_.shards, local};
  }

 private:
  // a / b for non-negative a, positive b.
  int64_t Divide(int64_t a, int64_t b) const {
    return small_ ? static_cast<uint32_t>(a) / static_cast<uint32_t>(b) : a / b;
  }

  // By how much the block of neighbours at `local` is turned, 0 <= rotation < shards. A permutation of the block stays one, so
  // every shard still gets one row of each block.
  int64_t Rotation(int64_t local) const {
    const int64_t mixed = (local % Routing::kPrime * routing_.multiplier + routing_.offset) % Routing::kPrime;
    const int64_t square = mixed * mixed % Routing::kPrime;
    // Below 2^31; shards are too, or else the remainder is the square itself.
    return routing_.shards > square ? square : static_cast<uint32_t>(square) % static_cast<uint32_t>(routing_.shards);
  }

  Routing routing_;
  int64_t base_;
  int64_t extra_;
  bool small_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROUTING_ROUTING_H_
