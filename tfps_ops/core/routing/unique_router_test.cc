#include "tfps_ops/core/routing/unique_router.h"

#include <algorithm>
#include <map>
#include <memory>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

// Buffers of exactly the sizes that the router may use, so that an address sanitizer sees a step beyond.
struct Step {
  std::vector<std::vector<int64_t>> ids;
  std::vector<std::vector<int32_t>> inverse;
  std::vector<std::vector<int64_t>> requests;
  std::vector<int64_t> unique_ids;
  std::vector<int32_t> table_order;
  std::vector<TableIds> tables;
};

std::unique_ptr<PieceMap> RandomMap(Random* random) {
  const int64_t servers = random->Integer(1, 4);
  std::vector<TableRoute> routes(random->Integer(1, 6));
  for (TableRoute& route : routes) {
    route.routing.kind = static_cast<RoutingKind>(random->Integer(0, 2));
    route.routing.rows = random->Integer(1, random->Integer(0, 1) ? 50 : int64_t{1} << 40);
    route.routing.shards = random->Integer(1, std::min<int64_t>(route.routing.rows, 5));
    route.routing.multiplier = random->Integer(0, Routing::kPrime - 1);
    route.routing.offset = random->Integer(0, Routing::kPrime - 1);
    for (int64_t s = 0; s < route.routing.shards; ++s) route.servers.push_back(random->Integer(0, servers - 1));
  }
  return std::make_unique<PieceMap>(routes, servers);
}

Step RandomIds(const PieceMap& map, Random* random) {
  Step step;
  for (int64_t t = 0; t < map.tables(); ++t) {
    const int64_t largest = std::min<int64_t>(map.route(t).routing.rows, 1000) - 1;
    std::vector<int64_t>& ids = step.ids.emplace_back(random->Integer(0, 1) * random->Integer(0, 500));
    for (int64_t& id : ids) id = random->Integer(0, largest);
    step.inverse.emplace_back(ids.size());
  }
  for (int64_t t = 0; t < map.tables(); ++t) {
    step.tables.push_back({step.ids[t].data(), step.inverse[t].data(), static_cast<int64_t>(step.ids[t].size())});
  }
  return step;
}

void Run(const PieceMap& map, const ParallelFor& parallel, Step* step) {
  UniqueRouter router(map);
  TFPS_CHECK(router.Read(step->tables, parallel).ok());
  Routed out;
  for (int64_t s = 0; s < map.servers(); ++s) step->requests.emplace_back(router.request_size(s));
  for (std::vector<int64_t>& request : step->requests) out.requests.push_back(request.data());
  step->unique_ids.resize(router.answer_rows());
  step->table_order.resize(router.answer_rows());
  out.unique_ids = step->unique_ids.data();
  out.table_order = step->table_order.data();
  router.Write(step->tables, out, parallel);
}

// The (table, shard, local row) of each row of the answer, read off the requests alone.
std::vector<std::vector<int64_t>> Answer(const PieceMap& map, const Step& step) {
  std::vector<std::vector<int64_t>> answer;
  for (int64_t server = 0; server < map.servers(); ++server) {
    int64_t next = map.pieces(server), piece = 0;
    for (int64_t t = 0; t < map.tables(); ++t) {
      for (int64_t shard = 0; shard < map.route(t).routing.shards; ++shard) {
        if (map.route(t).servers[shard] != server) continue;
        for (int64_t i = 0; i < step.requests[server][piece]; ++i) {
          answer.push_back({t, shard, step.requests[server][next++]});
        }
        ++piece;
      }
    }
    TFPS_CHECK(next == static_cast<int64_t>(step.requests[server].size()));
  }
  return answer;
}

void Check(const PieceMap& map, const Step& step) {
  const std::vector<std::vector<int64_t>> answer = Answer(map, step);
  TFPS_CHECK(answer.size() == step.unique_ids.size());
  std::map<std::vector<int64_t>, int> times;
  for (const auto& row : answer) TFPS_CHECK(++times[row] == 1);
  for (int64_t t = 0; t < map.tables(); ++t) {
    for (size_t i = 0; i < step.ids[t].size(); ++i) {
      const Place place = Locator(map.route(t).routing)(step.ids[t][i]);
      const int32_t row = step.inverse[t][i];
      TFPS_CHECK((answer.at(row) == std::vector<int64_t>{t, place.shard, place.local}));
      TFPS_CHECK(step.unique_ids[row] == step.ids[t][i]);
    }
  }
}

TFPS_TEST(EveryIdFindsItsRowAndEveryRowIsAskedForOnce) {
  Random random(1);
  for (int i = 0; i < 200; ++i) {
    const auto map = RandomMap(&random);
    Step step = RandomIds(*map, &random);
    Run(*map, i % 2 ? ParallelFor(InThreads) : ParallelFor(InCallersThread), &step);
    Check(*map, step);
  }
}

TFPS_TEST(ThreadsMayShareAMap) {
  Random random(2);
  const auto map = RandomMap(&random);
  std::vector<Step> steps;
  for (int i = 0; i < 4; ++i) steps.push_back(RandomIds(*map, &random));
  std::vector<std::thread> threads;
  for (Step& step : steps) threads.emplace_back([&map, &step] { Run(*map, InThreads, &step); });
  for (std::thread& thread : threads) thread.join();
  for (const Step& step : steps) Check(*map, step);
}

TFPS_TEST(TheFirstIdOutOfRangeIsNamedAndPlaced) {
  const Routing routing{RoutingKind::kMod, 10, 2, 0, 0};
  const PieceMap map({{routing, {0, 0}, "user"}, {routing, {0, 0}, "item"}, {routing, {0, 0}, "shop"}}, 1);
  for (int64_t bad : {int64_t{-1}, int64_t{10}, INT64_MIN, INT64_MAX}) {
    for (const ParallelFor& parallel : {ParallelFor(InCallersThread), ParallelFor(InThreads)}) {
      const int64_t good[] = {0, 9}, wrong[] = {3, bad, -7};
      int32_t inverses[3][3];
      UniqueRouter router(map);
      const Status status =
          router.Read({{good, inverses[0], 2}, {wrong, inverses[1], 3}, {wrong, inverses[2], 3}}, parallel);
      TFPS_CHECK(status.code() == StatusCode::kInvalidArgument);
      TFPS_CHECK(status.message() == "id out of range: table 'item' holds ids at least 0 and below 10. Received: " +
                                         std::to_string(bad));
      TFPS_CHECK(router.FirstBad().table == 1 && router.FirstBad().element == 1);
    }
  }
}

TFPS_TEST(TheExampleOfTheHeader) {
  const PieceMap map({{{RoutingKind::kMod, 10, 2, 0, 0}, {0, 1}, "item"}}, 2);
  Step step;
  step.ids = {{4, 7, 4, 2}};
  step.inverse = {std::vector<int32_t>(4)};
  step.tables = {{step.ids[0].data(), step.inverse[0].data(), 4}};
  Run(map, InCallersThread, &step);
  TFPS_CHECK(step.requests[0] == (std::vector<int64_t>{2, 2, 1}));
  TFPS_CHECK(step.requests[1] == (std::vector<int64_t>{1, 3}));
  TFPS_CHECK(step.unique_ids == (std::vector<int64_t>{4, 2, 7}));
  TFPS_CHECK(step.inverse[0] == (std::vector<int32_t>{0, 2, 0, 1}));
  // In table order, as the ids first came: 4, 7, 2.
  TFPS_CHECK(step.table_order == (std::vector<int32_t>{0, 2, 1}));
}

// The definition of the layout, with a list for each piece: ids are appended as they first come.
Step Slow(const PieceMap& map, const Step& of) {
  Step slow;
  slow.ids = of.ids;
  std::vector<std::vector<std::vector<int64_t>>> local(map.servers()), global(map.servers());
  for (int64_t s = 0; s < map.servers(); ++s) local[s].resize(map.pieces(s)), global[s].resize(map.pieces(s));
  for (int64_t t = 0; t < map.tables(); ++t) {
    for (int64_t id : of.ids[t]) {
      const Place place = Locator(map.route(t).routing)(id);
      const int64_t server = map.route(t).servers[place.shard], piece = map.piece(t, place.shard);
      std::vector<int64_t>& ids = global[server][piece];
      if (std::find(ids.begin(), ids.end(), id) != ids.end()) continue;
      ids.push_back(id);
      local[server][piece].push_back(place.local);
    }
  }
  for (int64_t s = 0; s < map.servers(); ++s) {
    std::vector<int64_t>& request = slow.requests.emplace_back();
    for (const auto& rows : local[s]) request.push_back(rows.size());
    for (const auto& rows : local[s]) request.insert(request.end(), rows.begin(), rows.end());
    for (const auto& ids : global[s]) slow.unique_ids.insert(slow.unique_ids.end(), ids.begin(), ids.end());
  }
  return slow;
}

TFPS_TEST(RequestsAreLaidOutAsTheDefinitionSays) {
  Random random(61);
  for (int i = 0; i < 60; ++i) {
    const auto map = RandomMap(&random);
    Step step = RandomIds(*map, &random);
    Run(*map, InThreads, &step);
    const Step slow = Slow(*map, step);
    TFPS_CHECK(step.requests == slow.requests && step.unique_ids == slow.unique_ids);
  }
}

TFPS_TEST(AStepWithoutIdsAsksForNothing) {
  const PieceMap map({{{RoutingKind::kDiv, 10, 2, 0, 0}, {1, 0}, "a"}, {{RoutingKind::kDiv, 3, 1, 0, 0}, {0}, "b"}}, 3);
  Step step;
  step.ids = {{}, {}};
  step.inverse = {{}, {}};
  step.tables = {{nullptr, nullptr, 0}, {nullptr, nullptr, 0}};
  Run(map, InThreads, &step);
  // A count for each piece of each server: server 0 has two, server 1 one, server 2 none.
  TFPS_CHECK(step.requests[0] == (std::vector<int64_t>{0, 0}));
  TFPS_CHECK(step.requests[1] == (std::vector<int64_t>{0}));
  TFPS_CHECK(step.requests[2].empty() && step.unique_ids.empty());
}

TFPS_TEST(PiecesOfAServerAreNumberedTableAfterTable) {
  const Routing two{RoutingKind::kDiv, 10, 2, 0, 0}, three{RoutingKind::kDiv, 10, 3, 0, 0};
  const PieceMap map({{two, {1, 0}, "a"}, {three, {1, 1, 0}, "b"}}, 2);
  TFPS_CHECK(map.tables() == 2 && map.servers() == 2 && map.pieces(0) == 2 && map.pieces(1) == 3);
  TFPS_CHECK(map.piece(0, 1) == 0 && map.piece(1, 2) == 1);                          // of server 0
  TFPS_CHECK(map.piece(0, 0) == 0 && map.piece(1, 0) == 1 && map.piece(1, 1) == 2);  // of server 1
}

TFPS_TEST(IdsThatHashAlikeStayApart) {
  // Multiples of a power of two fill a hash table in clusters; many more ids than the smallest table has slots.
  const int64_t rows = int64_t{1} << 50;
  const PieceMap map({{{RoutingKind::kHash, rows, 4, 1327217885, 3}, {0, 1, 2, 3}, "a"}}, 4);
  for (int shift : {0, 8, 16, 32, 40}) {
    Step step;
    std::vector<int64_t>& ids = step.ids.emplace_back();
    for (int64_t i = 0; i < 1000; ++i) ids.push_back((i % 700) << shift);
    step.inverse.emplace_back(ids.size());
    step.tables = {{ids.data(), step.inverse[0].data(), 1000}};
    Run(map, InCallersThread, &step);
    TFPS_CHECK(step.unique_ids.size() == 700);
    Check(map, step);
  }
}

}  // namespace
}  // namespace tfps
