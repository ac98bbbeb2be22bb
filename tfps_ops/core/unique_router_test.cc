#include "tfps_ops/core/unique_router.h"

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
  TFPS_CHECK(router.Read(step->tables, parallel) == UniqueRouter::kAllInRange);
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

TFPS_TEST(TheFirstTableWithABadIdIsNamed) {
  const std::vector<TableRoute> routes(3, TableRoute{Routing{RoutingKind::kMod, 10, 2, 0, 0}, {0, 0}});
  const PieceMap map(routes, 1);
  for (int64_t bad : {int64_t{-1}, int64_t{10}, INT64_MIN, INT64_MAX}) {
    const int64_t good[] = {0, 9}, wrong[] = {3, bad, -7};
    int32_t inverse[3];
    UniqueRouter router(map);
    TFPS_CHECK(router.Read({{good, inverse, 2}, {wrong, inverse, 3}, {wrong, inverse, 3}}, InCallersThread) == 1);
    TFPS_CHECK(router.bad_id(1) == bad);
    TFPS_CHECK(router.bad_place(1) == 1);
  }
}

}  // namespace
}  // namespace tfps
