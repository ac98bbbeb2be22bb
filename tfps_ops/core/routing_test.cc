#include "tfps_ops/core/routing.h"

#include <set>
#include <utility>

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

}  // namespace
}  // namespace tfps
