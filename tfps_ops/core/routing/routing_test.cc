#include "tfps_ops/core/routing/routing.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

Locator LocatorOf(RoutingKind kind, int64_t rows, int64_t shards) {
  Routing routing{kind, rows, shards, 0, 0};
  if (kind == RoutingKind::kHash) {
    routing.multiplier = 1327217885;
    routing.offset = rows % Routing::kPrime;
  }
  return Locator(routing);
}

TFPS_TEST(DivKeepsRangesAndModDealsOut) {
  // 10 rows on 4 shards: 0-2, 3-5, 6-7, 8-9; and 0 4 8, 1 5 9, 2 6, 3 7.
  const Locator div = LocatorOf(RoutingKind::kDiv, 10, 4), mod = LocatorOf(RoutingKind::kMod, 10, 4);
  TFPS_CHECK(div(5).shard == 1 && div(5).local == 2);
  TFPS_CHECK(div(6).shard == 2 && div(6).local == 0);
  TFPS_CHECK(div(9).shard == 3 && div(9).local == 1);
  TFPS_CHECK(mod(9).shard == 1 && mod(9).local == 2);
}

TFPS_TEST(EveryRowHasAPlaceOfItsOwnWithinItsShard) {
  for (RoutingKind kind : {RoutingKind::kDiv, RoutingKind::kMod, RoutingKind::kHash}) {
    for (int64_t rows : {1, 2, 7, 64, 1001}) {
      for (int64_t shards = 1; shards <= std::min<int64_t>(rows, 9); ++shards) {
        const Locator locate = LocatorOf(kind, rows, shards);
        std::set<std::pair<int64_t, int64_t>> places;
        for (int64_t id = 0; id < rows; ++id) {
          const Place place = locate(id);
          TFPS_CHECK(place.shard >= 0 && place.shard < shards && place.local >= 0);
          TFPS_CHECK(place.local < rows / shards + (place.shard < rows % shards));
          places.insert({place.shard, place.local});
        }
        TFPS_CHECK(static_cast<int64_t>(places.size()) == rows);
      }
    }
  }
}

TFPS_TEST(TheLargestTableDoesNotOverflow) {
  const int64_t rows = int64_t{1} << 62;
  for (RoutingKind kind : {RoutingKind::kDiv, RoutingKind::kMod, RoutingKind::kHash}) {
    const Place place = LocatorOf(kind, rows, 7)(rows - 1);
    TFPS_CHECK(place.shard >= 0 && place.shard < 7 && place.local >= 0 && place.local <= rows / 7);
  }
}

// The definition of placement/routing.py, with divisions of 128 bits and nothing worked out beforehand.
Place Slow(const Routing& r, int64_t id) {
  using Wide = __int128;
  const int64_t base = r.rows / r.shards, extra = r.rows % r.shards;
  if (r.kind == RoutingKind::kDiv) {
    // The first `extra` shards hold base + 1 rows each.
    const Wide large = Wide{extra} * (base + 1);
    if (id < large) return {id / (base + 1), id % (base + 1)};
    const int64_t rest = static_cast<int64_t>(id - large);
    return {extra + rest / base, rest % base};
  }
  const int64_t local = id / r.shards, turn = id % r.shards;
  // The last block is not whole, and is not rotated: a shard without a row there would get one.
  if (r.kind == RoutingKind::kMod || local >= base) return {turn, local};
  const Wide mixed = (Wide{local % Routing::kPrime} * r.multiplier + r.offset) % Routing::kPrime;
  const int64_t rotation = static_cast<int64_t>(mixed * mixed % Routing::kPrime % r.shards);
  return {(turn + rotation) % r.shards, local};
}

TFPS_TEST(PlacesEqualTheDefinition) {
  Random random(17);
  for (int i = 0; i < 3000; ++i) {
    Routing routing;
    routing.kind = static_cast<RoutingKind>(random.Integer(0, 2));
    // Sizes around 2^32, where the divisions change, small ones, and the largest.
    const int64_t sizes[] = {random.Integer(1, 100), UINT32_MAX - random.Integer(0, 3), UINT32_MAX + random.Integer(0, 3),
                             (int64_t{1} << 62) - random.Integer(0, 3)};
    routing.rows = sizes[random.Integer(0, 3)];
    routing.shards = random.Integer(1, std::min<int64_t>(routing.rows, random.Integer(0, 1) ? 9 : 5000));
    routing.multiplier = random.Integer(0, Routing::kPrime - 1);
    routing.offset = random.Integer(0, Routing::kPrime - 1);
    const Locator locate(routing);
    for (int64_t id : {int64_t{0}, routing.rows - 1, random.Integer(0, routing.rows - 1), random.Integer(0, routing.rows - 1)}) {
      const Place got = locate(id), expected = Slow(routing, id);
      TFPS_CHECK(got.shard == expected.shard && got.local == expected.local);
    }
  }
}

TFPS_TEST(OneShardHoldsEveryRowAtItsOwnNumber) {
  for (RoutingKind kind : {RoutingKind::kDiv, RoutingKind::kMod, RoutingKind::kHash}) {
    for (int64_t id : {0, 1, 999}) {
      const Place place = LocatorOf(kind, 1000, 1)(id);
      TFPS_CHECK(place.shard == 0 && place.local == id);
    }
  }
}

TFPS_TEST(ATableWithOneRowAShardIsFull) {
  for (RoutingKind kind : {RoutingKind::kDiv, RoutingKind::kMod, RoutingKind::kHash}) {
    std::set<int64_t> shards;
    for (int64_t id = 0; id < 50; ++id) {
      const Place place = LocatorOf(kind, 50, 50)(id);
      TFPS_CHECK(place.local == 0);
      shards.insert(place.shard);
    }
    TFPS_CHECK(shards.size() == 50);
  }
}

TFPS_TEST(HashSpreadsIdsWithAPattern) {
  // Every fourth id of a table on four shards: mod puts them all on one, hash about evenly.
  const int64_t rows = 40000, shards = 4;
  const Locator mod = LocatorOf(RoutingKind::kMod, rows, shards), hash = LocatorOf(RoutingKind::kHash, rows, shards);
  std::vector<int64_t> by_mod(shards), by_hash(shards);
  for (int64_t id = 0; id < rows; id += 4) ++by_mod[mod(id).shard], ++by_hash[hash(id).shard];
  TFPS_CHECK(by_mod[0] == rows / 4);
  for (int64_t count : by_hash) TFPS_CHECK(count > rows / 16 * 0.9 && count < rows / 16 * 1.1);
}

}  // namespace
}  // namespace tfps
