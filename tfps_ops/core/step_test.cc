// A whole training step through the core, as workers and servers run it: ids are routed, rows gathered from the stores of
// every server, gradients summed and pushed back. Compared with one dense matrix a table, in double precision, where nothing
// is routed, made unique or split.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "tfps_ops/core/routing/unique_router.h"
#include "tfps_ops/core/rows/row_request.h"
#include "tfps_ops/core/rows/segment_sum.h"
#include "tfps_ops/core/row_updater.h"
#include "tfps_ops/core/stores/matrix_row_store.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

constexpr float kRate = 0.1f, kEpsilon = 1e-3f;

// The tables, all of one width, on their servers.
class Cluster {
 public:
  Cluster(Random* random, int64_t servers, int64_t dim) : dim_(dim), stores_(servers) {
    std::vector<TableRoute> routes(random->Integer(1, 4));
    for (size_t t = 0; t < routes.size(); ++t) {
      Routing& routing = routes[t].routing;
      routing.kind = static_cast<RoutingKind>(random->Integer(0, 2));
      routing.rows = random->Integer(1, 60);
      routing.shards = random->Integer(1, std::min<int64_t>(routing.rows, 5));
      routing.multiplier = random->Integer(0, Routing::kPrime - 1);
      routing.offset = random->Integer(0, Routing::kPrime - 1);
      routes[t].name = "table_" + std::to_string(t);
      for (int64_t s = 0; s < routing.shards; ++s) routes[t].servers.push_back(random->Integer(0, servers - 1));
      first_values_.push_back(random->Floats(routing.rows * dim));
      AddShards(routes[t], first_values_.back());
    }
    map_ = std::make_unique<PieceMap>(std::move(routes), servers);
  }

  const PieceMap& map() const { return *map_; }
  int64_t dim() const { return dim_; }
  const std::vector<std::vector<float>>& first_values() const { return first_values_; }

  // What a server answers to a request, [rows of it, dim].
  std::vector<float> Gather(int64_t server, const std::vector<int64_t>& request) {
    const auto pieces = ReadRequest(request.data(), request.size(), stores_[server].size());
    TFPS_CHECK(pieces.ok());
    std::vector<float> rows((request.size() - stores_[server].size()) * dim_);
    for (size_t p = 0; p < stores_[server].size(); ++p) {
      const PieceRows& piece = pieces.value()[p];
      float* out = rows.data() + piece.first * dim_;
      TFPS_CHECK(stores_[server][p]->CopyRows({piece.rows, piece.count}, out, InCallersThread).ok());
    }
    return rows;
  }

  // What a server does with an update.
  void Apply(int64_t server, const std::vector<float>& message) {
    const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
    const auto update = ReadUpdate(message.data(), message.size(), adagrad->hyperparameters(), stores_[server].size(), dim_);
    TFPS_CHECK(update.ok());
    for (size_t p = 0; p < stores_[server].size(); ++p) {
      const PieceRows& piece = update.value().pieces[p];
      TFPS_CHECK(stores_[server][p]
                     ->UpdateRows(*adagrad, update.value().hyperparameters, {piece.rows, piece.count},
                                  update.value().gradients + piece.first * dim_, InThreads)
                     .ok());
    }
  }

  // The row of an id as its server has it now.
  std::vector<float> Row(int64_t table, int64_t id) {
    const Place place = Locator(map_->route(table).routing)(id);
    const int64_t server = map_->route(table).servers[place.shard];
    std::vector<float> row(dim_);
    RowStore* store = stores_[server][map_->piece(table, place.shard)].get();
    TFPS_CHECK(store->CopyRows({&place.local, 1}, row.data(), InCallersThread).ok());
    return row;
  }

 private:
  void AddShards(const TableRoute& route, const std::vector<float>& values) {
    const Locator locate(route.routing);
    std::vector<std::vector<float>> shards(route.routing.shards);
    for (int64_t id = 0; id < route.routing.rows; ++id) {
      const Place place = locate(id);
      std::vector<float>& shard = shards[place.shard];
      shard.resize(std::max<size_t>(shard.size(), (place.local + 1) * dim_));
      std::copy_n(values.begin() + id * dim_, dim_, shard.begin() + place.local * dim_);
    }
    for (int64_t s = 0; s < route.routing.shards; ++s) {
      stores_[route.servers[s]].push_back(
          std::make_unique<MatrixRowStore>(shards[s], dim_, std::vector<int64_t>{dim_}));
    }
  }

  const int64_t dim_;
  std::vector<std::vector<std::unique_ptr<RowStore>>> stores_;  // of each server, in the order of its pieces
  std::unique_ptr<PieceMap> map_;
  std::vector<std::vector<float>> first_values_;  // [tables], each [rows, dim]
};

// The twin: dense tables with an accumulator for each element.
struct Dense {
  std::vector<std::vector<double>> rows, accumulators;

  explicit Dense(const Cluster& cluster) {
    for (const std::vector<float>& values : cluster.first_values()) {
      rows.emplace_back(values.begin(), values.end());
      accumulators.emplace_back(values.size());
    }
  }

  // Adagrad, once for each id that occurs, with the sum of the gradients of its places.
  void Update(int64_t table, const std::vector<int64_t>& ids, const std::vector<float>& gradients, int64_t dim) {
    std::vector<double> sums(rows[table].size());
    for (size_t i = 0; i < ids.size() * dim; ++i) sums[ids[i / dim] * dim + i % dim] += gradients[i];
    std::vector<bool> touched(rows[table].size() / dim);
    for (int64_t id : ids) touched[id] = true;
    for (size_t i = 0; i < sums.size(); ++i) {
      if (!touched[i / dim]) continue;
      accumulators[table][i] += sums[i] * sums[i];
      rows[table][i] -= kRate * sums[i] / std::sqrt(accumulators[table][i] + kEpsilon);
    }
  }
};

// One step of a worker on the ids of each table: looks rows up, checks them against `dense`, and pushes random gradients.
void Step(Cluster* cluster, Dense* dense, Random* random) {
  const PieceMap& map = cluster->map();
  const int64_t dim = cluster->dim();
  std::vector<std::vector<int64_t>> ids(map.tables());
  std::vector<std::vector<int32_t>> inverse(map.tables());
  std::vector<TableIds> tables;
  for (int64_t t = 0; t < map.tables(); ++t) {
    ids[t].resize(random->Integer(0, 30));
    for (int64_t& id : ids[t]) id = random->Integer(0, map.route(t).routing.rows - 1);
    inverse[t].resize(ids[t].size());
    tables.push_back({ids[t].data(), inverse[t].data(), static_cast<int64_t>(ids[t].size())});
  }
  UniqueRouter router(map);
  TFPS_CHECK(router.Read(tables, InThreads).ok());
  std::vector<std::vector<int64_t>> requests;
  Routed routed;
  for (int64_t s = 0; s < map.servers(); ++s) requests.emplace_back(router.request_size(s));
  for (std::vector<int64_t>& request : requests) routed.requests.push_back(request.data());
  std::vector<int64_t> unique_ids(router.answer_rows());
  std::vector<int32_t> table_order(router.answer_rows());
  routed.unique_ids = unique_ids.data();
  routed.table_order = table_order.data();
  router.Write(tables, routed, InThreads);

  // The lookup: each place of each table must read the row of its id.
  std::vector<float> answer;
  for (int64_t s = 0; s < map.servers(); ++s) {
    const std::vector<float> rows = cluster->Gather(s, requests[s]);
    answer.insert(answer.end(), rows.begin(), rows.end());
  }
  std::vector<std::vector<float>> gradients;
  std::vector<Segment> segments;
  for (int64_t t = 0; t < map.tables(); ++t) {
    for (size_t i = 0; i < ids[t].size() * dim; ++i) {
      const double expected = dense->rows[t][ids[t][i / dim] * dim + i % dim];
      TFPS_CHECK(std::fabs(answer[inverse[t][i / dim] * dim + i % dim] - expected) < 1e-3);
    }
    gradients.push_back(random->Floats(ids[t].size() * dim));
    dense->Update(t, ids[t], gradients[t], dim);
  }
  // The push: gradients summed for each row of the answer, and back by the same requests.
  for (int64_t t = 0; t < map.tables(); ++t) {
    segments.push_back({gradients[t].data(), inverse[t].data(), static_cast<int64_t>(inverse[t].size())});
    TFPS_CHECK(CheckPositions(segments[t], router.answer_rows()).ok());
  }
  std::vector<float> sums(router.answer_rows() * dim);
  SegmentSum(segments, router.answer_rows(), dim, sums.data(), InThreads);
  auto next = sums.begin();
  for (int64_t s = 0; s < map.servers(); ++s) {
    std::vector<float> message = {kRate, kEpsilon, 0.0f};
    const float* bits = reinterpret_cast<const float*>(requests[s].data());
    message.insert(message.end(), bits, bits + 2 * requests[s].size());
    const int64_t floats = (requests[s].size() - map.pieces(s)) * dim;
    message.insert(message.end(), next, next + floats);
    next += floats;
    cluster->Apply(s, message);
  }
}

TFPS_TEST(TrainingThroughServersEqualsTrainingOfDenseTables) {
  for (int seed = 0; seed < 30; ++seed) {
    Random random(seed);
    Cluster cluster(&random, random.Integer(1, 4), random.Integer(1, 9));
    Dense dense(cluster);
    for (int step = 0; step < 6; ++step) Step(&cluster, &dense, &random);
    for (int64_t t = 0; t < cluster.map().tables(); ++t) {
      for (int64_t id = 0; id < cluster.map().route(t).routing.rows; ++id) {
        const std::vector<float> row = cluster.Row(t, id);
        for (int64_t j = 0; j < cluster.dim(); ++j) {
          TFPS_CHECK(std::fabs(row[j] - dense.rows[t][id * cluster.dim() + j]) < 1e-3);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tfps
